"""Top-k within groups: owners (crops, frames), heads, chunks.

Dimension letters: B batch, N token slots, G groups.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array


def top_grouped(
  scores: Array,
  *,
  group: Array,
  counts: Array,
  valid: Array,
  protected: Array,
) -> tuple[Array, Array]:
  """Keeps the tokens of the highest scores of each group.

  Crops with budgets of their own (HiRED, GlobalCom2) are groups by
  `Tokens.owner`; chunks (ChunkPress) are groups by `chunks`; for heads, call
  `top` on [B A, N].

  Args:
    scores: [B, N]; ties go to the earlier token, NaN comes last.
    group: int32 [B, N] in [0, G); tokens of other numbers are not kept.
    counts: int32 [B, G], unprotected tokens to keep in each group.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the counts.

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: 0 for the first token by
    (protected, score).

  Raises:
    UserError: see `checks.row_counts`, for each group.
  """
  if counts.ndim != 2:
    raise UserError(
      f'counts must be int [B, G], a number for each group, got {counts.shape}'
    )
  number = counts.shape[1]
  for extreme in (counts.min(axis=1), counts.max(axis=1)):
    checks.row_counts(
      extreme, valid=valid, protected=protected, scores=scores, group=group
    )
  inside = valid & (group >= 0) & (group < number)
  free = inside & ~protected
  own = jnp.where(free, group, number)
  low = -scores.astype(jnp.float32)
  slots = jnp.broadcast_to(jnp.arange(scores.shape[1]), scores.shape)
  order = jax.lax.sort((own, low, slots), dimension=1, num_keys=3)[2]
  place = basic.invert(order)  # by (group, score)
  hit = free[..., None] & (own[..., None] == jnp.arange(number)[None, None])
  sizes = hit.sum(axis=1)  # [B, G]
  start = jnp.cumsum(sizes, axis=1) - sizes
  safe = jnp.clip(group, 0, number - 1)
  within = place - jnp.take_along_axis(start, safe, axis=1)
  passed = within < jnp.take_along_axis(counts, safe, axis=1)
  kept = (protected & valid) | (free & passed)
  everything = jnp.full((scores.shape[0],), scores.shape[1], jnp.int32)
  rank = basic.top(
    scores, count=everything, valid=kept, protected=protected & valid
  )[1]
  return kept, rank


def chunks(valid: Array, *, size: int) -> Array:
  """Numbers runs of `size` valid tokens, [B, N] int32; -1 where padded.

  Args:
    valid: [B, N] bool.
    size: tokens of a chunk; the last one of a row may have fewer.

  Returns:
    The chunk of each token.

  Raises:
    UserError: if the size is below 1.
  """
  if size < 1:
    raise UserError(f'a chunk has at least 1 token, got {size}')
  before = jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1
  return jnp.where(valid, before // size, -1)


def top_chunks(
  scores: Array,
  *,
  size: int,
  count: Array | int,
  valid: Array,
  protected: Array,
) -> tuple[Array, Array]:
  """Keeps whole chunks of the highest mean scores (ChunkKV, 2502.00299).

  Args:
    scores: [B, N].
    size: tokens of a chunk; it runs over unprotected tokens.
    count: chunks to keep, int [B] or one number. Up to `size` times as many
      tokens are.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count and in no chunk.

  Returns:
    kept [B, N] bool, and rank int32 [B, N] by (protected, chunk's score, slot);
    ties go to the earlier chunk.

  Raises:
    UserError: if the size is below 1; see `checks.row_counts`.
  """
  free = valid & ~protected
  group = chunks(free, size=size)
  number = -(-scores.shape[1] // size)
  count = checks.row_counts(
    count, valid=valid, protected=protected, scores=scores
  )
  hit = group[..., None] == jnp.arange(number)[None, None]  # [B, N, G]
  sizes = hit.sum(axis=1)
  value = jnp.where(free, scores.astype(jnp.float32), 0)
  mean = jnp.einsum(
    'bn,bng->bg', value, hit.astype(jnp.float32), precision='highest'
  ) / jnp.maximum(sizes, 1)
  chosen, order = basic.top(
    mean,
    count=jnp.minimum(count, number),
    valid=sizes > 0,
    protected=jnp.zeros_like(sizes, bool),
  )
  at = jnp.maximum(group, 0)
  kept = free & jnp.take_along_axis(chosen, at, axis=1)
  step = jnp.where(kept, jnp.take_along_axis(order, at, axis=1), number)
  fixed = protected & valid
  return kept | fixed, basic.order_of(step, protected=fixed)
