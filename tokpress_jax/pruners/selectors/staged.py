"""One selector after another, within one budget.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array

# From (count [B], protected [B, N]) to kept [B, N], or to (kept, rank).
Stage = Callable[[Array, Array], Array | tuple[Array, Array]]


def remaining(count: Array, kept: Array, *, protected: Array) -> Array:
  """What a budget has left when some tokens are kept: int32 [B]."""
  used = (kept & ~protected).sum(axis=1, dtype=jnp.int32)
  return jnp.maximum(count - used, 0)


def staged(
  stages: Sequence[tuple[Array | None, Stage]],
  *,
  count: Array | int,
  valid: Array,
  protected: Array,
) -> tuple[Array, Array]:
  """Runs selectors in turn; each gets what the budget has left.

  To a stage, what was kept before it is protected. HiPrune is anchors with
  their neighbours, then the highest scores of a deep layer; VisPruner half by
  attention, then the rest without duplicates; SeGPruner the highest attention,
  then farthest points.

  Args:
    stages: (share, selector). The share int32 [B] is the most unprotected
      tokens that the selector is asked for; None is all that is left. A
      selector may return more than it was asked for (neighbours of what it
      took): they are cut at the whole budget only, the first by its rank, or
      by slot.
    count: unprotected tokens to keep, int [B] or one number.
    valid: [B, N] bool.
    protected: [B, N] bool, kept beside the count.

  Returns:
    kept [B, N] bool, and rank int32 [B, N]: protected tokens, then stage after
    stage.

  Raises:
    UserError: if there are no stages; see `checks.row_counts`.
  """
  if not stages:
    raise UserError('give at least one (share, selector) stage')
  count = checks.row_counts(count, valid=valid, protected=protected)
  slots = valid.shape[1]
  kept = protected & valid
  when = jnp.full(valid.shape, slots * (len(stages) + 1), jnp.int32)
  for i, (share, select) in enumerate(stages):
    left = remaining(count, kept, protected=protected)
    ask = left if share is None else jnp.minimum(share, left)
    result = select(ask, kept)
    mask, rank = result if isinstance(result, tuple) else (result, None)
    if rank is None:
      rank = jnp.broadcast_to(jnp.arange(slots), valid.shape)
    new = mask & valid & ~kept
    line = basic.order_of(jnp.where(new, rank, slots), protected=~valid)
    line = line - (~valid).sum(axis=1, keepdims=True)
    new = new & (line < left[:, None])
    when = jnp.where(new, i * slots + line, when)
    kept = kept | new
  return kept, basic.order_of(when, protected=protected & valid)
