"""Selectors by duplication: least like some pivots, without near-duplicates.

Dimension letters: B batch, N token slots, P pivots.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks, similarities
from tokpress_jax.pruners.selectors import basic, lines
from tokpress_jax.types import Array


def least_similar(
  similarity: similarities.Rows,
  *,
  pivots: Array,
  count: Array | int,
  valid: Array,
  protected: Array,
  pivot_valid: Array | None = None,
) -> tuple[Array, Array]:
  """Keeps pivots and what resembles each of them least (DART, 2502.11494).

  Pivots that are free tokens are kept, up to the count. Then each pivot in turn
  takes an equal share (rounded up) of what is left of the count: the least
  similar tokens that no one has taken. Protected pivots (words) take their
  share too. Shares are cut at the count, as in AngelSlim's code, which leaves
  ties to torch; ours go to the earlier token.

  Args:
    similarity: of all tokens to a row's pivot.
    pivots: int32 [B, P] slots, in the order in which they take: DART's image
      tokens of the largest key norms, then its words of the largest.
    count: unprotected tokens to keep, int [B] or one number.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.
    pivot_valid: [B, P] bool, for rows with fewer pivots; all if not given.

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then as taken.

  Raises:
    UserError: see `checks.row_counts`.
  """
  count = checks.row_counts(count, valid=valid, protected=protected)
  batch, slots = valid.shape
  number = pivots.shape[1]
  if pivot_valid is None:
    pivot_valid = jnp.ones(pivots.shape, bool)
  pivot_valid = pivot_valid & jnp.take_along_axis(valid, pivots, axis=1)
  fixed = protected & valid
  free = valid & ~protected
  count = jnp.minimum(count, free.sum(axis=1))

  # When each token is taken: pivots in their order, then in falling unlikeness.
  put = lambda row, at, order: row.at[at].min(order)
  order = jnp.where(pivot_valid, jnp.arange(number)[None], slots)
  when = jnp.full((batch, slots), slots, jnp.int32)
  when = jax.vmap(put)(when, pivots, order.astype(jnp.int32))
  is_pivot = free & (when < slots)
  place = basic.order_of(jnp.where(is_pivot, when, slots), protected=fixed)
  place = place - fixed.sum(axis=1, keepdims=True)
  when = jnp.where(is_pivot & (place < count[:, None]), place, slots)
  taken = jnp.minimum(is_pivot.sum(axis=1), count)
  total = jnp.maximum(pivot_valid.sum(axis=1), 1)
  share = (count - taken + total - 1) // total
  at = jnp.broadcast_to(jnp.arange(slots), valid.shape)
  for i in range(number):
    alike = jax.lax.stop_gradient(similarity(pivots[:, i]))
    tier = jnp.where(free & (when == slots), 0, 1)
    line = jax.lax.sort((tier, alike, at), dimension=1, num_keys=3)[2]
    place = basic.invert(line)
    more = jnp.where(pivot_valid[:, i], jnp.minimum(share, count - taken), 0)
    new = (tier == 0) & (place < more[:, None])
    when = jnp.where(new, taken[:, None] + place, when)
    taken = taken + new.sum(axis=1)
  return fixed | (when < slots), basic.order_of(when, protected=fixed)


def without_duplicates(
  gram: Array,
  *,
  count: Array | int,
  valid: Array,
  protected: Array,
  at_once: int = 8,
) -> Array:
  """Drops near-duplicates until the count is reached (VisPruner, 2412.01818).

  In each round the tokens that are left are dealt alternately, in slot order,
  to sets A and B; those of A that are most similar to a token of B leave, at
  most `at_once`, half of what is left and what is too much. Of equal ones the
  earlier leaves (torch's sort leaves that open). As many rounds as the longest
  row needs.

  Args:
    gram: [B, N, N] similarities, `similarities.cosine(x)`.
    count: unprotected tokens to keep, int [B] or one number.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count; they take no part.
    at_once: the most tokens that leave in a round.

  Returns:
    kept [B, N] bool.

  Raises:
    UserError: if no token may leave in a round; see `checks.row_counts`.
  """
  if at_once < 1:
    raise UserError(f'at least 1 token leaves in a round, got {at_once}')
  count = checks.row_counts(count, valid=valid, protected=protected, gram=gram)
  free = valid & ~protected
  # The last token has no other to resemble, so rounds end at one.
  # Steps that wait for nothing suit a CPU, few large ones an accelerator.
  left = jax.lax.platform_dependent(
    jax.lax.stop_gradient(gram.astype(jnp.float32)),
    free,
    jnp.maximum(count, 1),
    cpu=functools.partial(thin_out_lazily, at_once=at_once),
    default=functools.partial(thin_out, at_once=at_once),
  )
  return (protected & valid) | (left & (count > 0)[:, None])


def thin_out(gram: Array, free: Array, least: Array, *, at_once: int) -> Array:
  """Rounds of `without_duplicates` that compare all tokens: left [B, N]."""
  slots = jnp.broadcast_to(jnp.arange(free.shape[1]), free.shape)

  def one_round(left):
    set_a, set_b = _deal(left)
    alike = jnp.where(set_b[:, None], gram, -jnp.inf).max(axis=2)
    tier = jnp.where(set_a, 0, 1)
    line = jax.lax.sort((tier, -alike, slots), dimension=1, num_keys=3)[2]
    leave = _leaving(left, least, at_once)
    return left & ~(set_a & (basic.invert(line) < leave[:, None]))

  return jax.lax.while_loop(
    lambda left: (_leaving(left, least, at_once) > 0).any(), one_round, free
  )


def thin_out_lazily(
  gram: Array, free: Array, least: Array, *, at_once: int
) -> Array:
  """`thin_out` that compares a token only when it may be one of those to leave.

  The similarity to the nearest of all that were left some rounds ago bounds
  that to the nearest of set B from above.
  """
  row, slots = jnp.arange(free.shape[0]), jnp.arange(free.shape[1])[None]

  def one_round(carry):
    left, bounds, seen, number = carry
    set_a, set_b = _deal(left)
    leave = _leaving(left, least, at_once)

    def one_step(carry):
      found, bounds, seen, gone, leave = carry
      slot = lines.best(found)
      busy = leave > 0
      go = busy & (seen[row, slot] == number)
      look = busy & ~go
      alike = similarities.take_slot(gram, slot)
      nearest = lambda among: jnp.where(among, alike, -jnp.inf).max(axis=1)
      exact = lines.at_least_lowest(nearest(set_b))
      bound = nearest(left & (slots != slot[:, None]))
      found = lines.replace(
        found, slot, jnp.where(go, -jnp.inf, exact), where=busy
      )
      put = lambda x, new, where: x.at[row, slot].set(
        jnp.where(where, new, x[row, slot])
      )
      return (
        found,
        put(bounds, bound, look),
        put(seen, number, look),
        put(gone, True, go),
        leave - go,
      )

    start = (
      lines.in_lines(bounds, among=set_a),
      bounds,
      seen,
      jnp.zeros_like(left),
      leave,
    )
    _, bounds, seen, gone, _ = jax.lax.while_loop(
      lambda carry: (carry[4] > 0).any(), one_step, start
    )
    return left & ~gone, bounds, seen, number + 1

  start = (
    free,
    similarities.nearest_other(gram, free),
    jnp.zeros(free.shape, jnp.int32),
    jnp.ones((), jnp.int32),
  )
  return jax.lax.while_loop(
    lambda carry: (_leaving(carry[0], least, at_once) > 0).any(),
    one_round,
    start,
  )[0]


def _deal(left: Array) -> tuple[Array, Array]:
  """Tokens that are left, by turns to sets A and B, [B, N] each."""
  odd = (jnp.cumsum(left, axis=1) - 1) % 2
  return left & (odd == 0), left & (odd == 1)


def _leaving(left: Array, least: Array, at_once: int) -> Array:
  """How many leave in a round, int [B]."""
  number = left.sum(axis=1)
  surplus = jnp.maximum(number - least, 0)
  return jnp.minimum(jnp.minimum(at_once, number // 2), surplus)
