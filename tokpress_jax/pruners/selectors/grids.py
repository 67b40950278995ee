"""Selection in a grid: the tokens beside those of a mask.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.types import Array

Edges = Literal['clamp', 'stop']


def dilate(
  kept: Array,
  *,
  width: int,
  valid: Array,
  protected: Array,
  edges: Edges = 'clamp',
) -> Array:
  """Adds the neighbours left, right, above and below (HiPrune's buffers).

  Free tokens (valid and not protected) are the grid, in raster order.

  Args:
    kept: [B, N] bool.
    width: columns of the grid.
    valid: [B, N] bool.
    protected: [B, N] bool; they have no place in the grid and are not changed.
    edges: 'clamp' as in the official code (arXiv:2508.00553): neighbours are
      raster indices +-1 and +-width, so that left and right go on in the next
      row, and what lies beyond the ends is the first or the last token. 'stop'
      adds neighbours inside the grid only.

  Returns:
    kept [B, N] bool.

  Raises:
    UserError: if the width or `edges` is not valid.
  """
  if width < 1:
    raise UserError(f'a grid has at least 1 column, got {width}')
  if edges not in ('clamp', 'stop'):
    raise UserError(f"edges are 'clamp' or 'stop', got {edges!r}")
  free = valid & ~protected
  place = jnp.maximum(jnp.cumsum(free, axis=1) - 1, 0)  # [B, N]
  number = free.sum(axis=1, keepdims=True)
  column = place % width
  chosen = free & kept
  grown = jnp.zeros(kept.shape, bool)
  put = jax.vmap(lambda row, at, on: row.at[at].max(on, mode='drop'))
  for shift, inside in (
    (0, True),
    (-1, column > 0),
    (1, column < width - 1),
    (-width, True),
    (width, True),
  ):
    at = place + shift
    if edges == 'clamp':
      at = jnp.clip(at, 0, number - 1)
      on = chosen
    else:
      on = chosen & inside & (at >= 0) & (at < number)
    # A token that is not chosen writes nowhere.
    grown = put(grown, jnp.where(on, at, kept.shape[1]), on)
  return (kept & ~free) | (free & jnp.take_along_axis(grown, place, axis=1))
