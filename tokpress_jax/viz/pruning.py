"""Pictures of what a pruner did: kept patches, and groups of merged ones.

Dimension letters: H rows, W columns, h, w patches down and across, N = h w.

Every function takes and returns uint8 [H, W, 3] arrays.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from tokpress_jax.types import OneHot, Reduction


def patch_slots(
  reductions: tuple[Reduction, ...], *, row: int, leading: int
) -> np.ndarray:
  """Follows one row's patches through reductions.

  Args:
    reductions: of a host, in order; one-hot.
    row: of the batch.
    leading: tokens before the first patch (a class token).

  Returns:
    int [N], the slot that each patch ended in; -1 if it was dropped.

  Raises:
    ValueError: if there is no reduction, or a soft one.
  """
  slots: np.ndarray | None = None
  for reduction in reductions:
    if not isinstance(reduction.assign, OneHot):
      raise ValueError(
        'only one-hot reductions put a patch into one slot; got '
        f'{type(reduction.assign).__name__}'
      )
    target = np.asarray(reduction.assign.target)[row]
    if slots is None:
      slots = np.arange(target.size)
    slots = np.where(slots < 0, -1, target[np.maximum(slots, 0)])
  if slots is None:
    raise ValueError('nothing to draw: no reductions, so no token was pruned')
  return slots[leading:]


def draw_kept(
  image: np.ndarray, kept: np.ndarray, *, fade: float = 0.85
) -> np.ndarray:
  """Shows the kept patches, the others faded to white.

  Args:
    image: uint8 [H, W, 3].
    kept: bool [h, w].
    fade: how far dropped patches go to white.

  Returns:
    uint8 [H, W, 3].
  """
  shown = _to_pixels(kept, image)[..., None]
  pale = image + (255 - image.astype(np.float32)) * fade
  return np.where(shown, image, pale).astype(np.uint8)


def draw_groups(
  image: np.ndarray, slots: np.ndarray, *, line: int = 1
) -> np.ndarray:
  """Paints each group of merged patches in its mean colour, with an outline.

  A patch alone in its slot is shown as it is; dropped patches are white.

  Args:
    image: uint8 [H, W, 3].
    slots: int [h, w], the slot of each patch, -1 if dropped.
    line: width of the outlines in pixels.

  Returns:
    uint8 [H, W, 3].
  """
  where = _to_pixels(slots, image)
  out = image.copy()
  for slot in np.unique(slots):
    inside = where == slot
    if slot < 0:
      out[inside] = 255
    elif np.sum(slots == slot) > 1:
      out[inside] = image[inside].mean(axis=0).round()
  edge = np.zeros(where.shape, bool)
  edge[:, 1:] |= where[:, 1:] != where[:, :-1]
  edge[1:, :] |= where[1:, :] != where[:-1, :]
  for _ in range(line - 1):
    edge[:, 1:] |= edge[:, :-1]
    edge[1:, :] |= edge[:-1, :]
  out[edge] = 24
  return out


def draw_reductions(
  image: np.ndarray,
  reductions: tuple[Reduction, ...],
  *,
  grid: tuple[int, int],
  row: int = 0,
  leading: int = 0,
  panels: int = 4,
  gap: int = 8,
) -> np.ndarray:
  """A strip: the image, then its tokens after some of the reductions.

  Args:
    image: uint8 [H, W, 3].
    reductions: of a host, in order; one-hot.
    grid: (h, w).
    row: of the batch.
    leading: tokens before the first patch.
    panels: how many reductions are shown, evenly spaced, the last included.
    gap: white pixels between panels.

  Returns:
    uint8 [H, W', 3].

  Raises:
    ValueError: if the grid does not fit the reductions.
  """
  strips = [image]
  number = len(reductions)
  picks = {round((i + 1) * number / panels) for i in range(panels)} - {0}
  for count in sorted(picks):
    slots = patch_slots(reductions[:count], row=row, leading=leading)
    if slots.size != grid[0] * grid[1]:
      raise ValueError(
        f'a grid of {grid} has {grid[0] * grid[1]} patches, the reductions '
        f'start from {slots.size}; check grid and leading={leading}'
      )
    slots = slots.reshape(grid)
    alone = np.bincount(slots[slots >= 0], minlength=1).max() <= 1
    strips.append(
      draw_kept(image, slots >= 0) if alone else draw_groups(image, slots)
    )
  white = np.full((image.shape[0], gap, 3), 255, np.uint8)
  parts = [x for strip in strips for x in (strip, white)][:-1]
  return np.concatenate(parts, axis=1)


def _to_pixels(values: np.ndarray, image: np.ndarray) -> np.ndarray:
  """Spreads values [h, w] over the pixels [H, W] of their patches."""
  height, width = image.shape[:2]
  picture = Image.fromarray(np.asarray(values, np.int32))
  resized = picture.resize((width, height), Image.Resampling.NEAREST)
  return np.asarray(resized).astype(values.dtype)
