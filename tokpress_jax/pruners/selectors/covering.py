"""Greedy coverage: each pick covers most of what is not yet covered.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks, similarities
from tokpress_jax.pruners.selectors import basic, greedy, lines
from tokpress_jax.types import Array

Join = Callable[[Array, Array], Array]


def coverage(
  scores: Array,
  gram: Array,
  *,
  count: Array | int,
  limit: int,
  valid: Array,
  protected: Array,
  combine: Literal['multiply', 'add'] = 'multiply',
  floor: float = 0.0,
) -> tuple[Array, Array]:
  """Picks, each time, what covers most of what is not yet covered.

  A token is covered as far as it resembles a pick, or from the `floor`. The
  gain of a token is how much it adds to the coverage of all free tokens, times
  its score (SCOPE, arXiv:2510.24214, with score attention ** alpha), or plus it
  (facility location: CATP, arXiv:2508.07871, from the lowest cosine, -1).
  `limit` steps of N x N work each on an accelerator; on a CPU about as much as
  a few of these in all.

  Args:
    scores: [B, N].
    gram: [B, N, N] similarities, `similarities.cosine(x)`.
    count: unprotected tokens to keep, int [B] or one number.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    combine: how gain and score are joined.
    floor: of the coverage.

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then picks in
    order.

  Raises:
    UserError: if `combine` is unknown, or the limit; see `checks.row_counts`.
  """
  if combine not in ('multiply', 'add'):
    raise UserError(
      f"gain and score join by 'multiply' or 'add', got {combine!r}"
    )
  count = checks.row_counts(
    count,
    valid=valid,
    protected=protected,
    static=[('limit', limit, 1, valid.shape[1])],
    scores=scores,
    gram=gram,
  )
  join = jnp.multiply if combine == 'multiply' else jnp.add
  gram = jax.lax.stop_gradient(gram.astype(jnp.float32))
  # Steps that wait for nothing suit a CPU, few large ones an accelerator.
  return jax.lax.platform_dependent(
    scores.astype(jnp.float32),
    jnp.where(jnp.isnan(gram), 0, gram),
    count,
    valid,
    protected,
    cpu=functools.partial(cover_lazily, join=join, limit=limit, floor=floor),
    default=functools.partial(cover, join=join, limit=limit, floor=floor),
  )


def cover(
  scores: Array,
  gram: Array,
  count: Array,
  valid: Array,
  protected: Array,
  *,
  join: Join,
  limit: int,
  floor: float = 0.0,
) -> tuple[Array, Array]:
  """`coverage` with the gains of all tokens anew in each step."""
  return greedy.pick_greedily(
    lambda covered, _: join(_gain(gram, covered[:, None]), scores),
    lambda covered, pick: _cover_by(gram, covered, pick),
    _from_floor(floor, valid & ~protected),
    count=count,
    limit=limit,
    valid=valid,
    protected=protected,
  )


def cover_lazily(
  scores: Array,
  gram: Array,
  count: Array,
  valid: Array,
  protected: Array,
  *,
  join: Join,
  limit: int,
  floor: float = 0.0,
) -> tuple[Array, Array]:
  """`coverage` with the gain of a token anew only when it seems the best.

  A gain never grows as more is covered, so that an old one bounds it from above
  (Minoux, 1978). A negative score turns the bound around: then it is 0. Where a
  pick made many gains anew, the next one begins with all of them at once.
  """
  slots = valid.shape[1]
  fixed, free = protected & valid, valid & ~protected
  count = jnp.minimum(jnp.minimum(count, limit), free.sum(axis=1))
  row = jnp.arange(valid.shape[0])
  scores = jax.lax.stop_gradient(scores)
  turned = (scores < 0) & (join is jnp.multiply)
  all_gains = lambda covered: join(_gain(gram, covered[:, None]), scores)

  def pick_one(number, carry):
    old, renewed, covered, when, many = carry
    done = number >= count
    among = free & (when == slots)
    settled = lambda slot, renewed: done | (renewed[row, slot] == number)
    bounds, renewed = jax.lax.cond(
      many,
      lambda: (all_gains(covered), jnp.full_like(renewed, number)),
      lambda: (old, renewed),
    )

    def renew(carry):
      found, renewed, slot = carry
      more = _gain(similarities.take_slot(gram, slot), covered)
      worth = lines.at_least_lowest(join(more, scores[row, slot]))
      stale = ~settled(slot, renewed)
      found = lines.replace(found, slot, worth, where=stale)
      renewed = renewed.at[row, slot].set(number)
      return found, renewed, lines.best(found)

    found = lines.in_lines(bounds, among=among)
    found, renewed, pick = jax.lax.while_loop(
      lambda carry: ~settled(carry[2], carry[1]).all(),
      renew,
      (found, renewed, lines.best(found)),
    )
    bounds = lines.flat(found, slots)
    # As many as one at a time makes anew: what seemed as good as the best.
    tried = among & (old >= bounds[row, pick][:, None]) & ~done[:, None]
    when = when.at[row, pick].set(jnp.where(done, when[row, pick], number))
    more = _cover_by(gram, covered, pick)
    return (
      jnp.where(turned, 0, bounds),
      renewed,
      jnp.where(done[:, None], covered, more),
      when,
      (number == 0) | (tried.sum(axis=1) > slots // 8).any(),
    )

  covered = _from_floor(floor, free)
  start = (
    all_gains(covered),
    jnp.zeros(valid.shape, jnp.int32),
    covered,
    jnp.full(valid.shape, slots, jnp.int32),
    jnp.bool_(False),
  )
  *_, when, _ = jax.lax.fori_loop(0, count.max(), pick_one, start)
  return fixed | (when < slots), basic.order_of(when, protected=fixed)


def _from_floor(floor: float, free: Array) -> Array:
  """Coverage before the first pick, [B, N]; what is not free counts nowhere."""
  return jnp.where(free, floor, jnp.inf)


def _cover_by(gram: Array, covered: Array, pick: Array) -> Array:
  """Coverage with one more pick, [B, N]."""
  return jnp.maximum(covered, similarities.take_slot(gram, pick))


def _gain(similarity: Array, covered: Array) -> Array:
  """What lies above the coverage, summed over the last axis."""
  return jnp.maximum(similarity - covered, 0).sum(axis=-1)
