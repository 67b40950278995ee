"""Where the crops of an image lie: one grid of places over all of them.

Dimension letters: B batch, N token slots, G owners (the thumbnail, which is
owner 0, and the crops), H rows and W columns of a crop's grid.

`place_crops` says it once; what crops have to do with the thumbnail follows
from the positions, so images of a batch may have other numbers of crops.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import selectors
from tokpress_jax.types import Array, Tokens


def place_crops(tokens: Tokens, *, layout: Array) -> Tokens:
  """Gives crops' tokens their (row, column) in the whole image.

  Args:
    tokens: [B, N] as `join_crops` gives them: the thumbnail and its crops in
      raster order, each a whole grid without class token, with (row, column)
      in its own grid as positions. `valid` is False where an image was padded.
    layout: int [B, 2], rows and columns of crops of each image.

  Returns:
    Tokens whose thumbnail keeps its positions.

  Raises:
    UserError: if the tokens are no such grids, or the crops of an image, known
      outside of `jit`, do not tile it.
  """
  (height, width), number = _grids(tokens)
  layout = jnp.asarray(layout)
  if not jnp.issubdtype(layout.dtype, jnp.integer):
    raise UserError(f'layout is rows and columns, int, got {layout.dtype}')
  layout = layout.astype(jnp.int32)
  if layout.shape != (tokens.valid.shape[0], 2):
    raise UserError(
      f'layout must be [{tokens.valid.shape[0]}, 2], rows and columns of crops '
      f'of each image, got {layout.shape}'
    )
  rows, columns = layout[:, :1], layout[:, 1:]
  crop = jnp.repeat(jnp.arange(number), height * width)[None] - 1
  inside = (crop >= 0) & (crop < rows * columns)
  safe = jnp.maximum(columns, 1)
  shift = jnp.stack([crop // safe * height, crop % safe * width], axis=-1)
  shift = jnp.where(inside[..., None], shift, 0).astype(tokens.positions.dtype)
  placed = dataclasses.replace(
    tokens, positions=tokens.positions + shift, placed=True
  )
  _check_tiles(placed, layout)
  return placed


def layout_of(tokens: Tokens) -> Array:
  """Rows and columns of crops, int32 [B, 2], of tokens that were placed.

  Args:
    tokens: as `place_crops` gives them.

  Returns:
    (1, 1) too where an image has no crops.

  Raises:
    UserError: as `place_crops` does.
  """
  (height, width), _ = _grids(tokens)
  if not tokens.placed:
    raise UserError(
      'nothing says where the crops lie; call place_crops(tokens, '
      'layout=[[rows, columns], ...]) after join_crops'
    )
  far = jnp.max(tokens.positions, axis=1)
  layout = far // jnp.array([[height, width]], far.dtype) + 1
  layout = layout.astype(jnp.int32)
  _check_tiles(tokens, layout)
  return layout


def crop_of_places(tokens: Tokens) -> Array:
  """The crop that covers each place of the thumbnail.

  Where crops do not divide its grid, the last ones have what is left.

  Args:
    tokens: as `place_crops` gives them.

  Returns:
    int32 [B, N], owners from 1; -1 for tokens that are not the thumbnail's.
  """
  grid, _ = _grids(tokens)
  layout = layout_of(tokens)
  at = []
  for axis, length in enumerate(grid):
    parts = layout[:, axis, None]
    size = jnp.maximum(length // parts, 1)
    place = tokens.positions[..., axis].astype(jnp.int32)
    at.append(jnp.minimum(place // size, parts - 1))
  owner = 1 + at[0] * layout[:, 1:] + at[1]
  return jnp.where(tokens.owner == 0, owner, -1)


def image_order(tokens: Tokens) -> Array:
  """Ranks of the thumbnail's tokens, then of all crops' in one raster.

  Args:
    tokens: as `place_crops` gives them.

  Returns:
    int32 [B, N].
  """
  (height, width), number = _grids(tokens)
  row, column = (tokens.positions[..., i].astype(jnp.int32) for i in (0, 1))
  first = tokens.owner == 0
  raster = row * width * number + column
  order = jnp.where(first, row * width + column, height * width + raster)
  return selectors.invert(jnp.argsort(order, axis=1, stable=True))


def over_crops(values: Array, tokens: Tokens) -> Array:
  """Bilinearly samples a map over the thumbnail at the crops' places.

  What is not padding of the whole image spans the thumbnail, as pixels do
  (`align_corners=False` in PyTorch).

  Args:
    values: [B, N], read where the thumbnail is, which has no padding.
    tokens: as `place_crops` gives them.

  Returns:
    float32 [B, N]; arbitrary at the thumbnail and where padded.
  """
  grid, _ = _grids(tokens)
  there = tokens.valid & (tokens.owner > 0)
  low, high, part = [], [], []
  for axis, length in enumerate(grid):
    place = tokens.positions[..., axis].astype(jnp.float32)
    first = jnp.where(there, place, jnp.inf).min(axis=1, keepdims=True)
    last = jnp.where(there, place, -jnp.inf).max(axis=1, keepdims=True)
    size = jnp.where(last >= first, last - first + 1, length)
    start = jnp.where(last >= first, first, 0)
    at = jnp.clip((place - start + 0.5) * length / size - 0.5, 0, length - 1)
    low.append(jnp.floor(at).astype(jnp.int32))
    high.append(jnp.minimum(low[-1] + 1, length - 1))
    part.append(at - low[-1])
  values = values[:, : grid[0] * grid[1]].astype(jnp.float32)
  take = lambda y, x: jnp.take_along_axis(values, y * grid[1] + x, axis=1)
  upper = (1 - part[1]) * take(low[0], low[1]) + part[1] * take(low[0], high[1])
  lower = (1 - part[1]) * take(high[0], low[1]) + part[1] * take(
    high[0], high[1]
  )
  return (1 - part[0]) * upper + part[0] * lower


def sums(values: Array, groups: Array, *, number: int) -> Array:
  """Sums per group: float32 [B, G].

  Args:
    values: [B, N].
    groups: int [B, N]; others than 0 to G - 1 are left out.
    number: G.
  """
  hit = groups[:, None] == jnp.arange(number)[None, :, None]  # [B, G, N]
  return jnp.where(hit, values[:, None].astype(jnp.float32), 0).sum(axis=2)


def _grids(tokens: Tokens) -> tuple[tuple[int, int], int]:
  """((H, W), G) of tokens that are whole equal grids."""
  grids = tokens.grids
  frames, height, width = grids[0] if grids else (0, 0, 0)
  slots = tokens.valid.shape[1]
  if (
    frames != 1
    or set(grids) != {grids[0]}
    or len(grids) < 2
    or slots != len(grids) * height * width
    or tokens.positions.shape[-1] != 2
  ):
    raise UserError(
      'a thumbnail and its crops are at least 2 equal grids with (row, column) '
      f'as positions; got grids {grids}, {slots} slots and '
      f'{tokens.positions.shape[-1]} position axes. Observe the tower without '
      'its class token, join its crops with join_crops, and say where they lie '
      'with place_crops'
    )
  return (height, width), len(grids)


def _check_tiles(tokens: Tokens, layout: Array) -> None:
  """Outside of `jit`: as many crops are there as the layout says."""
  if not arrays.concrete(tokens.valid, tokens.owner, layout):
    return
  there = np.where(np.asarray(tokens.valid), np.asarray(tokens.owner), 0)
  for i, (row, (rows, columns)) in enumerate(
    zip(there, np.asarray(layout), strict=True)
  ):
    if min(rows, columns) < 0 or (rows == 0) != (columns == 0):
      raise UserError(
        f'image {i} has a layout of {rows} rows and {columns} columns of '
        'crops; give 1 or more of both, or 0 of both for a thumbnail alone'
      )
    crops = set(np.unique(row)) - {0}
    if crops and crops != set(range(1, rows * columns + 1)):
      raise UserError(
        f'the crops {sorted(int(c) for c in crops)} of image {i} do not tile '
        f'it in {rows} rows and {columns} columns; give place_crops the layout '
        'of each image, and all of its crops'
      )
