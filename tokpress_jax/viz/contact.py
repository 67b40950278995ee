"""Contact sheets: what several methods keep of the same images.

Dimension letters: S side of a picture in pixels, h, w patches down and across.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from tokpress_jax.viz import pruning, sheets

_PALE, _TINT = 0.65, 0.1  # of white, and of its token, in a merged patch
_ACROSS = 6  # panels in a line, at most, of one image


def draw_choice(
  image: np.ndarray, slots: np.ndarray, leaders: np.ndarray
) -> np.ndarray:
  """Shows kept patches, merged ones tinted and outlined, dropped ones pale.

  Args:
    image: uint8 [S, S, 3].
    slots: int [h, w], the slot that each patch went to, -1 if dropped.
    leaders: bool [h, w], patches that stand for their slot.

  Returns:
    uint8 [S, S, 3].
  """
  out = pruning.draw_kept(image, leaders)
  where = pruning.to_pixels(slots, image)
  own = pruning.to_pixels(leaders, image)
  line = max(1, image.shape[0] // slots.shape[0] // 12)
  edge = pruning.edges(where, line)
  around = pruning.edges(np.where(own, where, -3), line)
  found, first, size = np.unique(slots, return_index=True, return_counts=True)
  for slot, start in zip(found[size > 1], first[size > 1], strict=True):
    if slot < 0:
      continue
    inside = where == slot
    colour = pruning.outline(int(start), image[inside].mean(axis=0))
    joined = inside & ~own
    left = (1 - _PALE - _TINT) * image[joined]
    out[joined] = left + 255 * _PALE + _TINT * colour
    out[joined & edge] = (colour + 255.0) / 2
    out[inside & own & around] = colour
  return out


def draw_crops(
  image: np.ndarray, kept: np.ndarray, *, crops: tuple[int, int]
) -> np.ndarray:
  """Shows what is left of a thumbnail and its crops, on the whole image.

  Args:
    image: uint8 [S, S, 3].
    kept: bool [N], patches of the thumbnail, then those of each crop in raster
      order, each a square grid.
    crops: rows and columns of crops.

  Returns:
    uint8 [S, S, 3]; what the thumbnail alone keeps is half as pale as what
    nothing keeps.
  """
  rows, columns = crops
  side = round((len(kept) // (1 + rows * columns)) ** 0.5)
  grids = kept.reshape(1 + rows * columns, side, side)
  parts = grids[1:].reshape(rows, columns, side, side).swapaxes(1, 2)
  fine = parts.reshape(rows * side, columns * side)
  coarse = pruning.draw_kept(image, grids[0], fade=0.85)
  half = pruning.draw_kept(image, np.zeros_like(grids[0]), fade=0.5)
  shown = pruning.to_pixels(grids[0], image)[..., None]
  out = np.where(shown, half, coarse)
  return np.where(pruning.to_pixels(fine, image)[..., None], image, out)


def contact_sheet(
  images: Sequence[np.ndarray],
  panels: Sequence[Sequence[np.ndarray]],
  labels: Sequence[str],
  *,
  names: Sequence[str] = (),
  texts: Sequence[str] = (),
  cell: int = 112,
) -> Image.Image:
  """Lays out images and what is left of them.

  Args:
    images: uint8 [S, S, 3] each.
    panels: of each image, one for each method.
    labels: of the methods.
    names: of the images, or none.
    texts: below the names, or none.
    cell: side of a picture.

  Returns:
    An RGBA image, transparent around the pictures: images down and methods
    across; the other way round where there are more methods than images; one
    image in lines.
  """
  size = label_size(cell)
  own = ['\n'.join(filter(None, pair)) for pair in _pairs(images, names, texts)]
  if len(images) == 1:
    return _lines(images[0], panels[0], labels, own[0], cell=cell, size=size)
  table: list[list[Any]] = [
    [image, *row] for image, row in zip(images, panels, strict=True)
  ]
  heads = ['image', *labels]
  if len(labels) > len(images):
    turned = [list(column) for column in zip(*table, strict=True)]
    return sheets.sheet(
      turned,
      row_labels=heads,
      column_labels=[sheets.wrap(t, cell, size) for t in own],
      cell=cell,
      size=size,
    )
  return sheets.sheet(
    table,
    row_labels=own if any(own) else (),
    column_labels=[sheets.wrap(t, cell, size) for t in heads],
    cell=cell,
    size=size,
  )


def label_size(cell: int) -> int:
  """Height of the labels beside pictures of a size, in pixels."""
  return max(11, cell // 6)


def _pairs(
  images: Sequence[Any], names: Sequence[str], texts: Sequence[str]
) -> list[tuple[str, str]]:
  """Name and quoted text of each image."""
  found = []
  for i in range(len(images)):
    text = f'"{texts[i]}"' if texts and texts[i] else ''
    found.append((names[i] if names else '', text))
  return found


def _lines(
  image: np.ndarray,
  panels: Sequence[np.ndarray],
  labels: Sequence[str],
  name: str,
  *,
  cell: int,
  size: int,
) -> Image.Image:
  """One image and its panels, some in a line."""
  cells = [image, *panels]
  heads = [name or 'image', *labels]
  heads = [sheets.wrap(t, cell, size) for t in heads]
  lines = -(-len(cells) // _ACROSS)
  across = -(-len(cells) // lines)
  parts = [
    sheets.sheet(
      [cells[i : i + across]],
      column_labels=heads[i : i + across],
      cell=cell,
      size=size,
    )
    for i in range(0, len(cells), across)
  ]
  gap = 8
  height = sum(part.height + gap for part in parts) - gap
  out = Image.new(
    'RGBA', (max(part.width for part in parts), height), (0, 0, 0, 0)
  )
  y = 0
  for part in parts:
    out.paste(part, (0, y))
    y += part.height + gap
  return out
