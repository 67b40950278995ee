"""Groups: from the kept token that each token joins to a reduction.

Dimension letters: B batch, N token slots, K kept slots.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import checks, selectors
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array, OneHot, Reduction, Tokens


def grouped(
  tokens: Tokens,
  lead: Array,
  *,
  capacity: int,
  rank: Array | None = None,
  num_merged: int | None = None,
) -> Reduction:
  """The reduction in which every token joins its lead.

  Args:
    tokens: N slots.
    lead: int32 [B, N], the source slot of the kept token that each joins: its
      own if it is kept, -1 if it is dropped.
    capacity: K; kept tokens beyond it are dropped with all that joined them.
    rank: int [B, N], the order of the kept tokens; slot order if None.
    num_merged: static, the most tokens of a row that join another, if known.

  Returns:
    The reduction, positions those of the kept tokens. Slots that are not valid
    come last.

  Raises:
    UserError: if the capacity is below 0.
  """
  causes = checks.static_causes([('capacity', capacity, 0, None)])
  checks.refuse('this merger', causes)
  slots = jnp.arange(lead.shape[1], dtype=jnp.int32)[None]
  lead = jnp.where(tokens.valid, lead, -1)
  kept = lead == slots
  if rank is not None:  # 0, 1, ... as `selection` has it
    last = jnp.iinfo(jnp.int32).max
    rank = selectors.invert(jnp.argsort(jnp.where(kept, rank, last), axis=1))
  result = basic.select(tokens, kept, capacity=capacity, rank=rank)
  assert isinstance(result.assign, OneHot)
  target = jnp.take_along_axis(
    result.assign.target, jnp.maximum(lead, 0), axis=1
  )
  target = jnp.where(lead >= 0, target, -1)
  return dataclasses.replace(result, assign=OneHot(target, merged=num_merged))


def count_free(tokens: Tokens) -> tuple[Array, Array, Array]:
  """Tokens that may move: mask [B, N], rank among them [B, N], number [B]."""
  free = tokens.valid & ~tokens.protected
  rank = jnp.cumsum(free, axis=1, dtype=jnp.int32) - 1
  return free, rank, jnp.sum(free, axis=1, dtype=jnp.int32)


def rows_last(tokens: Tokens, rank: Array) -> Array:
  """An order of output: protected tokens by slot, then the rest by rank.

  Args:
    tokens: N slots.
    rank: int32 [B, N], unique in a row.

  Returns:
    int32 [B, N].
  """
  slots = jnp.arange(rank.shape[1], dtype=rank.dtype)[None]
  return jnp.where(tokens.protected, slots, rank.shape[1] + rank)


def rank_of(score: Array, *, among: Array) -> Array:
  """Rank by falling score of the tokens of a mask; the others come after.

  Args:
    score: [B, N]; ties go to the earlier slot.
    among: [B, N] bool.

  Returns:
    int32 [B, N].
  """
  slots = jnp.broadcast_to(jnp.arange(score.shape[1]), score.shape)
  order = jax.lax.sort(
    (~among, -score.astype(jnp.float32), slots), dimension=1, num_keys=3
  )[2]
  return selectors.invert(order)
