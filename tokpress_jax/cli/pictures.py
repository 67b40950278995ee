"""Pictures that commands show of images: what a model sees, and their files."""

import pathlib
from typing import Any

import numpy as np
from PIL import Image

from tokpress_jax import viz
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib

SIDE = 336  # of a picture in a sheet, at most, in pixels
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp')


def is_picture(out: str) -> bool:
  """Whether --out names a picture, and not a folder for them.

  Args:
    out: as given.

  Raises:
    UserError: if it is a file of another kind.
  """
  path = pathlib.Path(out)
  if path.suffix.lower() in SUFFIXES:
    return True
  if path.suffix and not path.is_dir() and not out.endswith('/'):
    raise UserError(
      f'--out {out}: a picture ends in {", ".join(SUFFIXES)}; a folder, with a '
      f'picture for each image, has no ending, or a / behind it ({out}/)'
    )
  return False


def write(path: pathlib.Path, picture: Image.Image) -> None:
  """Writes a picture in the format of its name."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(viz.encoded(picture, path.suffix))


def cell_of(cell: int | None, grid: int) -> int:
  """Side of a picture: as given, or whole pixels for each patch."""
  return cell or grid * max(1, SIDE // grid)


def seen(
  file: pathlib.Path, config: Any, fit: images_lib.Policy, cell: int
) -> np.ndarray:
  """What the model sees of an image, as fine as the picture: [S, S, 3]."""
  seen = config.grid * config.patch  # A rim may be left out.
  pixels = images_lib.load_image(file, channels=config.channels)
  side = max(cell, round(cell * config.image_size / seen))
  if config.image_size < 64:  # Few pixels are shown as pixels.
    small, _ = images_lib.fit_image(pixels, config.image_size, policy=fit)
    at = np.arange(cell) * seen // cell
    square = small[0][at][:, at]
  else:
    square = images_lib.fit_image(pixels, side, policy=fit)[0][0]
  square = square[:cell, :cell]
  return np.broadcast_to(square, (*square.shape[:2], 3)).copy()
