"""Top-k, even spacing, and the reduction of a mask.

Dimension letters: B batch, N token slots, K kept slots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import checks
from tokpress_jax.types import Array, OneHot, Reduction, Tokens


def top(
  scores: Array, *, count: Array | int, valid: Array, protected: Array
) -> tuple[Array, Array]:
  """Keeps the tokens of the highest scores.

  Args:
    scores: [B, N]; ties go to the earlier token, NaN comes last.
    count: unprotected tokens to keep, int [B] or one number.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: 0 for the first token by
    (protected, score).

  Raises:
    UserError: see `checks.row_counts`.
  """
  count = checks.row_counts(
    count, valid=valid, protected=protected, scores=scores
  )
  tier = jnp.where(protected, 0, jnp.where(valid, 1, 2))
  slots = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
  order = jax.lax.sort(
    (tier, -scores.astype(jnp.float32), slots), dimension=1, num_keys=3
  )[2]
  rank = invert(order)
  total = jnp.sum(protected, axis=1) + count
  return valid & (rank < total[:, None]), rank


def spaced(*, count: Array | int, valid: Array, protected: Array) -> Array:
  """Keeps evenly spaced tokens of each row.

  Args:
    count: unprotected tokens to keep, int [B] or one number.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.

  Returns:
    kept [B, N] bool.

  Raises:
    UserError: see `checks.row_counts`.
  """
  count = checks.row_counts(count, valid=valid, protected=protected)
  free = valid & ~protected
  number = jnp.sum(free, axis=1, keepdims=True)
  rank = jnp.cumsum(free, axis=1) - 1
  count = count[:, None]
  # Token r is taken if the middle of one of `count` equal parts falls on it:
  # if the number of middles below r + 1 is larger than the number below r.
  below = lambda r: (2 * count * r + number - 1) // (2 * jnp.maximum(number, 1))
  return protected | (free & (below(rank + 1) > below(rank)))


def selection(
  tokens: Tokens, kept: Array, *, capacity: int, rank: Array | None = None
) -> Reduction:
  """The reduction that keeps the tokens of a mask.

  Args:
    tokens: N slots.
    kept: [B, N] bool, at most `capacity` in a row.
    capacity: K; there are N slots if that is fewer.
    rank: int32 [B, N], the order of the kept tokens; slot order if None.

  Returns:
    A pure selection, positions kept. Slots that are not valid come last.

  Raises:
    UserError: if `kept` is no such mask, the capacity is below 0, or (outside
      of `jit`) a row keeps more.
  """
  causes = checks.mask_causes('kept', kept, tokens.valid)
  checks.refuse('this', causes or checks.slots_causes(kept, capacity))
  return select(tokens, kept, capacity=capacity, rank=rank)


def select(
  tokens: Tokens, kept: Array, *, capacity: int, rank: Array | None = None
) -> Reduction:
  """`selection` that drops what is beyond the capacity."""
  slots = jnp.broadcast_to(jnp.arange(kept.shape[1]), kept.shape)
  if rank is None:
    rank = slots
  order = jnp.argsort(jnp.where(kept, rank, kept.shape[1]), axis=1, stable=True)
  index = order[:, :capacity].astype(jnp.int32)
  valid = jnp.take_along_axis(kept, index, axis=1)
  slot = invert(order)
  target = jnp.where(kept & (slot < capacity), slot, -1).astype(jnp.int32)
  positions = jax.vmap(lambda p, at: jnp.take(p, at, axis=0))(
    tokens.positions, index
  )
  return Reduction(
    index=index,
    valid=valid,
    assign=OneHot(target, merged=0),
    positions=jnp.where(valid[..., None], positions, 0),
  )


def order_of(step: Array, *, protected: Array) -> Array:
  """The rank of tokens by (protected, step, slot).

  Args:
    step: int32 [B, N], when each token was taken; the same high number for all
      that were not.
    protected: [B, N] bool.

  Returns:
    int32 [B, N].
  """
  tier = jnp.where(protected, 0, 1)
  slots = jnp.broadcast_to(jnp.arange(step.shape[1]), step.shape)
  return invert(jax.lax.sort((tier, step, slots), num_keys=3)[2])


def invert(order: Array) -> Array:
  """Inverts permutations [B, N]: where each slot went."""
  slots = jnp.arange(order.shape[1], dtype=jnp.int32)
  put = lambda o: jnp.zeros_like(slots).at[o].set(slots, unique_indices=True)
  return jax.vmap(put)(order)
