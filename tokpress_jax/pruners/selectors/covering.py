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
from tokpress_jax.pruners.selectors import basic, greedy
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
) -> tuple[Array, Array]:
  """Picks, each time, what covers most of what is not yet covered.

  A token is covered as far as it resembles a pick, or 0. The gain of a token is
  how much it adds to the coverage of all free tokens, times its score (SCOPE,
  arXiv:2510.24214, with score attention ** alpha), or plus it (facility
  location: CATP, arXiv:2508.07871, with similarities in [0, 1]). `limit` steps
  of N x N work each.

  Args:
    scores: [B, N].
    gram: [B, N, N] similarities, `similarities.cosine(x)`.
    count: unprotected tokens to keep, int [B] or one number.
    limit: static upper bound of `count`.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    combine: how gain and score are joined.

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
  free = valid & ~protected
  gram = jnp.where(free[:, :, None], gram.astype(jnp.float32), 0)
  join = jnp.multiply if combine == 'multiply' else jnp.add
  # Steps that wait for nothing suit a CPU, few large ones an accelerator.
  return jax.lax.platform_dependent(
    scores.astype(jnp.float32),
    gram,
    count,
    valid,
    protected,
    cpu=functools.partial(cover_lazily, join=join, limit=limit),
    default=functools.partial(cover, join=join, limit=limit),
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
) -> tuple[Array, Array]:
  """`coverage` with the gains of all tokens anew in each step."""

  def gain(covered, _):
    more = jnp.maximum(gram - covered[:, :, None], 0).sum(axis=1)
    return join(more, scores)

  return greedy.pick_greedily(
    gain,
    lambda covered, pick: jnp.maximum(covered, _column(gram, pick)),
    jnp.zeros(scores.shape, jnp.float32),
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
) -> tuple[Array, Array]:
  """`coverage` with the gain of a token anew only when it seems the best.

  A gain never grows as more is covered, so that an old one bounds it from above
  (Minoux, 1978). A negative score turns the bound around: then it is 0.
  """
  slots = valid.shape[1]
  fixed, free = protected & valid, valid & ~protected
  count = jnp.minimum(jnp.minimum(count, limit), free.sum(axis=1))
  batch = jnp.arange(valid.shape[0])
  gram, scores = jax.lax.stop_gradient((gram, scores))
  columns = jnp.swapaxes(gram, 1, 2)  # whole lines of memory in each step
  worth = lambda more, at: greedy.without_nan(join(more, scores[batch, at]))
  forget = lambda bounds: jnp.where(
    (scores < 0) & (join is jnp.multiply), 0.0, bounds
  )

  def step(carry):
    bounds, fresh, covered, when, number = carry
    pick = greedy.best_slot(bounds, free & (when == slots))
    column = similarities.take_slot(columns, pick)
    busy = number < count
    taken = busy & fresh[batch, pick]
    again = busy & ~taken
    value = worth(jnp.maximum(column - covered, 0).sum(axis=1), pick)
    bounds = bounds.at[batch, pick].set(
      jnp.where(again, value, bounds[batch, pick])
    )
    fresh = fresh.at[batch, pick].set(again | fresh[batch, pick])
    when = when.at[batch, pick].set(jnp.where(taken, number, when[batch, pick]))
    taken = taken[:, None]
    return (
      jnp.where(taken, forget(bounds), bounds),
      fresh & ~taken,
      jnp.where(taken, jnp.maximum(covered, column), covered),
      when,
      number + taken[:, 0],
    )

  gains = jnp.maximum(gram, 0).sum(axis=1)
  start = (
    greedy.without_nan(join(gains, scores)),
    jnp.ones(valid.shape, bool),
    jnp.zeros(valid.shape, jnp.float32),
    jnp.full(valid.shape, slots, jnp.int32),
    jnp.zeros(valid.shape[:1], jnp.int32),
  )
  *_, when, _ = jax.lax.while_loop(
    lambda carry: (carry[4] < count).any(), step, start
  )
  return fixed | (when < slots), basic.order_of(when, protected=fixed)


def _column(gram: Array, pick: Array) -> Array:
  """gram[:, :, pick] of each row, [B, N]."""
  return jnp.take_along_axis(gram, pick[:, None, None], axis=2)[:, :, 0]
