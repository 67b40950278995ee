"""Windows of a grid: pooled to a few places, and the regions around them.

Dimension letters: B batch, H rows and W columns of a grid, r rows and c columns
of windows, s places that a window is pooled to, q places of a region, h rows
and w columns of pooled places, T places of a small grid, D features.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn.positions import grid_positions
from tokpress_jax.types import Array

Pair = tuple[int, int]


def bins(length: int, number: int) -> list[slice]:
  """The overlapping parts that adaptive pooling splits an axis into."""
  return [
    slice(i * length // number, -(-(i + 1) * length // number))
    for i in range(number)
  ]


def pool_windows(x: Array, *, window: Pair, samples: Pair) -> Array:
  """Adaptive max pooling of each window.

  Args:
    x: [B, H, W, D], which windows tile.
    window: (rows, columns) of tokens of a window.
    samples: (rows, columns) that it is pooled to, in raster order.

  Returns:
    [B, r, c, s, D].
  """
  batch, rows, columns, width = x.shape
  r, c = rows // window[0], columns // window[1]
  x = x.reshape(batch, r, window[0], c, window[1], width)
  down = [x[:, :, at].max(axis=2) for at in bins(window[0], samples[0])]
  x = jnp.stack(down, axis=3)  # [B, r, c, samples[0], window[1], D]
  across = [x[:, :, :, :, at].max(axis=4) for at in bins(window[1], samples[1])]
  return jnp.stack(across, axis=4).reshape(batch, r, c, -1, width)


def regions(x: Array, *, windows: Pair, reach: Pair) -> Array:
  """A region around each window, all inside of the grid.

  The first begins at the grid's first row and the last ends at its last, the
  others lie evenly between; each holds its window.

  Args:
    x: [B, H, W, D].
    windows: (r, c).
    reach: rows and columns of a region, at most the grid's.

  Returns:
    [B, r, c, q, D].
  """
  at = []
  for length, number, size in zip(x.shape[1:3], windows, reach, strict=True):
    size = min(size, length)
    start = np.arange(number) * (length - size) // max(number - 1, 1)
    at.append(start[:, None] + np.arange(size))
  x = x[:, at[0]][:, :, :, at[1]]  # [B, r, rows, c, columns, D]
  x = x.swapaxes(2, 3)
  return x.reshape(*x.shape[:3], -1, x.shape[-1])


def membership(grid: Pair, *, window: Pair, samples: Pair) -> np.ndarray:
  """What of each token `pool_windows` pools where: float32 [h w, H W].

  A token of several overlapping parts goes to each in equal shares.

  Args:
    grid: (H, W).
    window: (rows, columns) of tokens of a window.
    samples: (rows, columns) that a window is pooled to.
  """
  sides = []
  for length, size, number in zip(grid, window, samples, strict=True):
    parts = bins(size, number)
    side = np.zeros((length // size * number, length), np.float32)
    for row in range(len(side)):
      start, part = row // number * size, parts[row % number]
      side[row, start + part.start : start + part.stop] = 1
    sides.append(side / side.sum(axis=0, keepdims=True))
  both = np.einsum('hy,wx->hwyx', *sides)
  return both.reshape(both.shape[0] * both.shape[1], -1)


def relative_index(size: Pair) -> np.ndarray:
  """The number of the offset between any two places of a grid: int [T, T]."""
  at = grid_positions(*size)
  offset = at[:, None] - at[None] + np.array(size) - 1
  return offset[..., 0] * (2 * size[1] - 1) + offset[..., 1]


def to_cells(x: Array, size: tuple[int, int]) -> Array:
  """[B, H, W, D] as [B, r, c, h w, D] of size (h, w), filled up with zeros."""
  (high, wide), (batch, rows, columns, width) = size, x.shape
  x = jnp.pad(x, ((0, 0), (0, -rows % high), (0, -columns % wide), (0, 0)))
  r, c = x.shape[1] // high, x.shape[2] // wide
  x = x.reshape(batch, r, high, c, wide, width).swapaxes(2, 3)
  return x.reshape(batch, r, c, high * wide, width)


def from_cells(
  x: Array, size: tuple[int, int], shape: tuple[int, int]
) -> Array:
  """The inverse of `to_cells`, to an image of `shape` (H, W)."""
  (high, wide), (batch, r, c, _, width) = size, x.shape
  x = x.reshape(batch, r, c, high, wide, width).swapaxes(2, 3)
  x = x.reshape(batch, r * high, c * wide, width)
  return x[:, : shape[0], : shape[1]]
