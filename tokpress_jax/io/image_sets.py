"""Sets of images on disk: what numbers are computed of, and what others read.

* an `.npz` in the layout of the usual ImageNet evaluator (guided-diffusion's):
  `arr_0` uint8 [N, H, W, C], `arr_1` int [N] the classes. Written and read a
  part at a time: 50,000 images of 256 x 256 are 9.8 GB.
* an `.npz` of statistics: `mu` [D], `sigma` [D, D] of the pooled features,
  `mu_s`, `sigma_s` of the spatial ones. Reference files hold both: `mu` of the
  whole training set, `arr_0` of 10,000 images for precision and recall.
* a folder of image files, all of one size, in the order of their names.

Dimension letters: N images, B batch, H rows, W columns, C channels, D features.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib

# The usual evaluator's name, and that of `tokpress sample`.
IMAGES = ('arr_0', 'images')
LABELS = ('arr_1', 'labels')
STATISTICS = ('mu', 'sigma', 'mu_s', 'sigma_s')
RECIPE = 'recipe'
SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp')


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A file or folder, opened.

  Attributes:
    path: where it is.
    shape: (N, H, W, C) of its images, or None if it has statistics only.
    statistics: `mu`, `sigma`, `mu_s`, `sigma_s`, those that are there.
    recipe: how the statistics were made, if this library wrote them.
    files: of a folder, the image files.
    key: of an .npz, the name of its images.
  """

  path: pathlib.Path
  shape: tuple[int, ...] | None
  statistics: Mapping[str, np.ndarray]
  recipe: Mapping[str, Any] | None = None
  files: tuple[pathlib.Path, ...] = ()
  key: str = ''

  def batches(self, size: int) -> Iterator[np.ndarray]:
    """Reads uint8 [B, H, W, C], the last batch perhaps smaller."""
    if self.shape is None:
      raise UserError(
        f'{self.path} holds statistics ({", ".join(self.statistics)}) and no '
        'images (arr_0).'
      )
    if self.files:
      yield from self._read_files(size)
      return
    with _member(self.path, self.key) as file:
      shape, _ = _header(file, self.path, self.key)
      row = int(np.prod(shape[1:]))
      for start in range(0, shape[0], size):
        count = min(size, shape[0] - start)
        data = file.read(count * row)
        if len(data) < count * row:
          raise UserError(
            f'{self.path} is cut off: {self.key} has {shape[0]} images by its '
            f'header, and ends after about {start + len(data) // row}.'
          )
        yield np.frombuffer(data, np.uint8).reshape(count, *shape[1:])

  def _read_files(self, size: int) -> Iterator[np.ndarray]:
    _, *shape = self.shape or ()
    channels: Any = shape[2]
    for start in range(0, len(self.files), size):
      part = self.files[start : start + size]
      pixels = [images_lib.load_image(p, channels=channels) for p in part]
      for path, image in zip(part, pixels, strict=True):
        if list(image.shape) != shape:
          raise UserError(
            f'{path} is {image.shape}, {self.files[0].name} {tuple(shape)}; '
            'the images of a set must be of one size.'
          )
      yield np.stack(pixels)


def open_images(path: str | os.PathLike[str]) -> ImageSet:
  """Opens a set of images, or statistics of one.

  Args:
    path: an .npz file or a folder.

  Raises:
    UserError: if it is neither, or its arrays are not what they should be.
  """
  path = pathlib.Path(path).expanduser()
  if path.is_dir():
    files = tuple(
      p for p in sorted(path.rglob('*')) if p.suffix.lower() in SUFFIXES
    )
    if not files:
      raise UserError(f'There are no images in the folder {path}.')
    first = images_lib.load_image(files[0])
    return ImageSet(path, (len(files), *first.shape), {}, files=files)
  if not path.is_file():
    raise UserError(f'There is no file or folder {str(path)!r}.')
  try:
    if not zipfile.is_zipfile(path):
      raise ValueError('it is no zip file')
    with np.load(path) as arrays:
      names = arrays.files
      statistics = {k: arrays[k] for k in STATISTICS if k in names}
      recipe = json.loads(str(arrays[RECIPE])) if RECIPE in names else None
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
    raise UserError(
      f'{path} is no .npz file of images or statistics: {error}. Expected '
      'arr_0 (uint8 [N, H, W, C]), or mu and sigma.'
    ) from error
  key = next((k for k in IMAGES if k in names), '')
  if not key and 'mu' not in statistics:
    raise UserError(
      f'{path} has the arrays {", ".join(names)}; expected arr_0 (uint8 '
      '[N, H, W, C]), or the statistics mu and sigma.'
    )
  lost = [k for k in ('sigma', 'mu_s', 'sigma_s') if k not in statistics]
  if 'mu' in statistics and ('sigma' in lost or len(lost) == 1):
    raise UserError(
      f'{path} lacks {", ".join(lost)}: a mean comes with its covariance.'
    )
  _check_statistics(path, statistics)
  shape = None
  if key:
    with _member(path, key) as file:
      shape, dtype = _header(file, path, key)
    if dtype != np.uint8 or len(shape) != 4 or shape[3] not in (1, 3):
      raise UserError(
        f'{key} of {path} is {dtype} {shape}; expected uint8 [N, H, W, C] of '
        '1 or 3 channels.'
      )
  return ImageSet(path, shape, statistics, recipe, key=key)


def _check_statistics(
  path: pathlib.Path, statistics: Mapping[str, np.ndarray]
) -> None:
  for name in ('mu', 'mu_s'):
    if name not in statistics:
      continue
    covariance = name.replace('mu', 'sigma')
    size = statistics[name].size
    shapes = statistics[name].shape, statistics[covariance].shape
    if shapes != ((size,), (size, size)):
      raise UserError(
        f'{name} and {covariance} of {path} are {shapes[0]} and {shapes[1]}; '
        'expected [D] and [D, D].'
      )


@contextlib.contextmanager
def _member(path: pathlib.Path, key: str) -> Iterator[IO[bytes]]:
  with zipfile.ZipFile(path) as archive, archive.open(f'{key}.npy') as file:
    yield file


def _header(
  file: IO[bytes], path: pathlib.Path, key: str
) -> tuple[tuple[int, ...], np.dtype]:
  """Reads what comes before the numbers; leaves the file at the first."""
  version = np.lib.format.read_magic(file)
  if version == (1, 0):
    shape, by_column, dtype = np.lib.format.read_array_header_1_0(file)
  elif version == (2, 0):
    shape, by_column, dtype = np.lib.format.read_array_header_2_0(file)
  else:
    raise UserError(f'{key} of {path} is in version {version} of the format.')
  if by_column:
    raise UserError(
      f'{key} of {path} is stored by columns; save it again, as '
      'numpy.ascontiguousarray(x).'
    )
  return shape, dtype


class ImageWriter:
  """Writes an .npz of images and classes a batch at a time.

  The file appears under its name when all of it is written.
  """

  def __init__(
    self,
    path: str | os.PathLike[str],
    shape: tuple[int, int, int, int],
  ):
    """Starts the file.

    Args:
      path: of the .npz file.
      shape: (N, H, W, C); N is what is going to be written.
    """
    self._path = pathlib.Path(path)
    self._path.parent.mkdir(parents=True, exist_ok=True)
    self._part = self._path.with_name(self._path.name + '.part')
    self._shape = shape
    self._written = 0
    self._archive = zipfile.ZipFile(self._part, 'w', allowZip64=True)
    self._file = self._archive.open(f'{IMAGES[0]}.npy', 'w', force_zip64=True)
    head = {'descr': '|u1', 'fortran_order': False, 'shape': shape}
    np.lib.format.write_array_header_1_0(self._file, head)

  def write(self, images: np.ndarray) -> None:
    """Appends uint8 images [n, H, W, C]."""
    if images.dtype != np.uint8 or images.shape[1:] != self._shape[1:]:
      raise ValueError(
        f'Expected uint8 [n, {self._shape[1:]}]; got {images.dtype} '
        f'{images.shape}.'
      )
    self._file.write(np.ascontiguousarray(images).tobytes())
    self._written += len(images)

  def close(self, labels: np.ndarray | None = None) -> None:
    """Writes the classes [N] and gives the file its name.

    Raises:
      ValueError: if not as many images came as were promised.
    """
    self._file.close()
    if labels is not None:
      with self._archive.open(f'{LABELS[0]}.npy', 'w') as file:
        np.lib.format.write_array(file, np.asarray(labels, np.int64))
    self._archive.close()
    if self._written != self._shape[0]:
      self._part.unlink()
      raise ValueError(
        f'{self._written} images came of {self._shape[0]} for {self._path}.'
      )
    self._part.replace(self._path)


def save_statistics(
  path: str | os.PathLike[str],
  statistics: Mapping[str, np.ndarray],
  recipe: Mapping[str, Any],
) -> None:
  """Writes an .npz of statistics.

  Args:
    path: of the file.
    statistics: `mu` and `sigma`, perhaps `mu_s` and `sigma_s`.
    recipe: how they were made; `open_images` gives it back.
  """
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  arrays: dict[str, Any] = {**statistics, RECIPE: np.array(json.dumps(recipe))}
  with open(path, 'wb') as file:
    np.savez(file, **arrays)
