"""Who attends to whom, from ranks.

Dimension letters: B batch, T queries, S keys, N tokens.

Every function gives a boolean mask, True where a query (row) may attend to a
key (column). Ranks are [N] or [B, N] (see `order.py`); NumPy in, NumPy out. A
mask over the batch, [B, T, S], needs an axis for the heads before `attention`.
"""

from __future__ import annotations

import jax
import numpy as np

Array = jax.Array


def causal_blocks(
  rank: np.ndarray | Array, keys: np.ndarray | Array | None = None
) -> np.ndarray | Array:
  """Own block and all earlier ones: VAR, xAR, NAR, RAR, HAR, raster.

  Args:
    rank: [..., T] of the queries.
    keys: [..., S] of the keys; the queries' if not given.

  Returns:
    bool [..., T, S].
  """
  keys = rank if keys is None else keys
  return keys[..., None, :] <= rank[..., :, None]


def own_block(
  rank: np.ndarray | Array, keys: np.ndarray | Array | None = None
) -> np.ndarray | Array:
  """Own block only: MVAR, whose past enters through the inputs alone.

  Args:
    rank: [..., T] of the queries.
    keys: [..., S] of the keys; the queries' if not given.

  Returns:
    bool [..., T, S].
  """
  keys = rank if keys is None else keys
  return keys[..., None, :] == rank[..., :, None]


def revealed(rank: np.ndarray | Array, step: int | Array) -> np.ndarray | Array:
  """Tokens known before a step, the same for all queries.

  This is the encoder of a masked autoencoder (MAR, Hi-MAR): dropping the masked
  tokens equals hiding them as keys. Decoders and MaskGIT see `everything`.

  Args:
    rank: [..., S] of the keys; a given prefix has the lowest ranks.
    step: the next rank to be predicted.

  Returns:
    bool [..., 1, S].
  """
  return (rank < step)[..., None, :]


def everything(queries: int, keys: int) -> np.ndarray:
  """All see all, bool [T, S]: MaskGIT, decoders of MAR and Hi-MAR."""
  return np.ones((queries, keys), bool)


def window(grid: tuple[int, int], kernel: int) -> np.ndarray:
  """A k x k neighbourhood in a grid, moved inwards at the borders.

  Every query has k * k keys (Hassani et al. 2204.07143, as in NATTEN).

  Args:
    grid: rows and columns.
    kernel: k, odd and at most the smaller side.

  Returns:
    bool [N, N] over raster positions.

  Raises:
    ValueError: if the kernel is even or does not fit.
  """
  if kernel % 2 == 0 or not 1 <= kernel <= min(grid):
    raise ValueError(
      f'a neighbourhood needs an odd kernel of at most {min(grid)} in a grid '
      f'of {grid[0]}x{grid[1]}, got {kernel}'
    )
  near = []
  for size in grid:
    place = np.arange(size)
    start = np.clip(place - kernel // 2, 0, size - kernel)[:, None]
    near.append((place[None] >= start) & (place[None] < start + kernel))
  rows, columns = near
  mask = rows[:, None, :, None] & columns[None, :, None, :]
  return mask.reshape(grid[0] * grid[1], -1)


def windowed_blocks(
  grids: tuple[tuple[int, int], ...], kernels: tuple[int | None, ...]
) -> np.ndarray:
  """Own scale, in a neighbourhood where one is given (MVAR's last scales).

  Args:
    grids: rows and columns of each scale.
    kernels: side of each scale's neighbourhood; None for the whole scale.

  Returns:
    bool [N, N] with N the tokens of all scales.

  Raises:
    ValueError: if the lengths differ, or see `window`.
  """
  if len(grids) != len(kernels):
    raise ValueError(
      f'{len(grids)} scales need as many kernels, got {len(kernels)}'
    )
  total = sum(h * w for h, w in grids)
  mask, start = np.zeros((total, total), bool), 0
  for (h, w), kernel in zip(grids, kernels, strict=True):
    end = start + h * w
    inside = True if kernel is None else window((h, w), kernel)
    mask[start:end, start:end] = inside
    start = end
  return mask
