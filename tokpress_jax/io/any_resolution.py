"""Images of any size as a thumbnail and crops, as LLaVA-NeXT reads them.

Liu et al., "LLaVA-NeXT: Improved reasoning, OCR, and world knowledge" (2024).
Of some layouts of crops the one that shows most of an image is taken; the image
is put in its middle at its own proportions, on black, and cut. Before the crops
stands the whole image, stretched to one crop's size.

Dimension letters: B images, G crops of an image with its thumbnail, S the side
of a crop in pixels, C channels, N patches of a crop, H, W an image's size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib

Layouts = Sequence[tuple[int, int]]

# Rows and columns of crops.
LLAVA_NEXT: tuple[tuple[int, int], ...] = (
  (1, 2),
  (2, 1),
  (2, 2),
  (3, 1),
  (1, 3),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crops:
  """What a tower sees of images, in arrays of one shape.

  Attributes:
    pixels: uint8 [B, G, S, S, C], the thumbnail first, then the crops in raster
      order; black where an image has fewer.
    valid: bool [B, G, N], patches that show some of the image.
    layout: int32 [B, 2], rows and columns of crops.
  """

  pixels: np.ndarray
  valid: np.ndarray
  layout: np.ndarray


def cut_crops(
  images: Sequence[Any],
  *,
  size: int = 336,
  patch: int = 14,
  layouts: Layouts = LLAVA_NEXT,
  channels: Literal[1, 3] = 3,
) -> Crops:
  """Cuts images into a thumbnail and crops each.

  A tower takes them as rows of pixels, [B G, S, S, C] through
  `images.to_float`; `join_crops(tokens, signals, crops=G, valid=crops.valid)`
  puts what it says into a row for each image.

  Args:
    images: B of what `load_image` takes; they may differ in size.
    size: S.
    patch: the side of a patch in pixels.
    layouts: (rows, columns) to choose from.
    channels: C.

  Returns:
    Crops, G being one more than the largest layout has.

  Raises:
    UserError: if an image cannot be read, there is none, or patches do not tile
      a crop.
  """
  if isinstance(images, str | bytes) or not isinstance(images, Sequence):
    raise UserError(
      'images is a list of images, such as [picture]; got one '
      f'{type(images).__name__}'
    )
  if not images or not layouts:
    raise UserError('give at least one image and one layout of crops')
  if channels not in (1, 3):
    raise UserError(f'channels is 1 or 3, got {channels}')
  if wrong := [x for x in layouts if np.shape(x) != (2,) or min(x) < 1]:
    raise UserError(
      f'layouts are pairs, rows and columns of crops, as in ((2, 2),); got '
      f'{wrong}'
    )
  if min(size, patch) < 1 or size % patch:
    raise UserError(f'patches of {patch} pixels do not tile crops of {size}')
  number = 1 + max(math.prod(layout) for layout in layouts)
  side = size // patch
  shape = len(images), number
  pixels = np.zeros((*shape, size, size, channels), np.uint8)
  valid = np.zeros((*shape, side, side), bool)
  chosen = []
  for i, source in enumerate(images):
    image = images_lib.load_image(source, channels=channels)
    rows, columns = best_layout(image.shape[:2], layouts, size=size)
    count = 1 + rows * columns
    pixels[i, 0] = images_lib.resize(image, (size, size))
    valid[i, 0] = True
    whole = _placed(image, rows, columns, size)
    pixels[i, 1:count] = images_lib.cut_tiles(whole, size)
    inside = _shown(image.shape[:2], rows * side, columns * side)
    valid[i, 1:count] = images_lib.cut_tiles(inside, side)
    chosen.append((rows, columns))
  return Crops(
    pixels=pixels,
    valid=valid.reshape(*shape, side * side),
    layout=np.array(chosen, np.int32),
  )


def best_layout(
  shape: tuple[int, int], layouts: Layouts = LLAVA_NEXT, *, size: int = 336
) -> tuple[int, int]:
  """The layout in which an image keeps most pixels, and then wastes least.

  Args:
    shape: (H, W) of the image.
    layouts: (rows, columns) to choose from; the first of equals is taken.
    size: S.
  """

  def worth(layout: tuple[int, int]) -> tuple[int, int]:
    rows, columns = layout
    scale = min(columns * size / shape[1], rows * size / shape[0])
    shown = math.prod(int(n * scale) for n in shape[::-1])
    kept = min(shown, math.prod(shape))
    return kept, kept - rows * columns * size**2

  return max(layouts, key=worth)


def _placed(
  image: np.ndarray, rows: int, columns: int, size: int
) -> np.ndarray:
  """The image on black, [rows S, columns S, C], in its own proportions."""
  height, width = rows * size, columns * size
  down, across = height / image.shape[0], width / image.shape[1]
  if across < down:
    inner = min(math.ceil(image.shape[0] * across), height), width
  else:
    inner = height, min(math.ceil(image.shape[1] * down), width)
  box = (height - inner[0]) // 2, (width - inner[1]) // 2, *inner
  out = np.zeros((height, width, image.shape[2]), np.uint8)
  images_lib.cut(out, box)[...] = images_lib.resize(image, inner)
  return out


def _shown(shape: tuple[int, int], rows: int, columns: int) -> np.ndarray:
  """Which of a layout's patches LLaVA-NeXT keeps: bool [rows, columns].

  Of an image thinner than a patch it keeps none; here those that show it stay.
  """
  height, width = shape
  inside = np.zeros((rows, columns), bool)
  if width / height > columns / rows:
    edge = (rows - (int(round(height * columns / width, 7)) or 1)) // 2
    inside[edge : rows - edge] = True
  else:
    edge = (columns - (int(round(width * rows / height, 7)) or 1)) // 2
    inside[:, edge : columns - edge] = True
  return inside
