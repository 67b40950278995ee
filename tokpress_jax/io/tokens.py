"""Token files: images as codes, with all that is needed to get them back.

A token file is a NumPy `.npz` without pickles:

| array       | what it holds                                              |
|-------------|------------------------------------------------------------|
| codes       | int32 [R, N, Q]; row r counts up to lengths[r]             |
| lengths     | int32 [R]                                                  |
| sizes       | int32 [n, 2], height and width of each image               |
| boxes       | int32 [n, 4], see `io.images.Placement`                    |
| grids       | int32 [n, 2], rows and columns of tiles; 1, 1 unless tiled |
| sides       | int32 [n], side of the squares that the tokenizer saw      |
| names       | str [n], the file names                                    |
| policy      | str, the fit policy                                        |
| fingerprint | str, of the tokenizer's variables                          |

n images, R rows of tokens (one per image, or per tile), N token slots, Q codes
per token.
"""

import dataclasses
import os
import zipfile
import zlib
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenFile:
  """The contents of a token file; see the module's docstring."""

  codes: np.ndarray
  lengths: np.ndarray
  names: tuple[str, ...]
  placements: tuple[images_lib.Placement, ...]
  fingerprint: str


def save(path: str | os.PathLike[str], tokens: TokenFile) -> None:
  """Writes a token file."""
  field = lambda name: np.array(
    [getattr(p, name) for p in tokens.placements], np.int32
  )
  with open(path, 'wb') as file:
    np.savez_compressed(
      file,
      codes=tokens.codes.astype(np.int32),
      lengths=tokens.lengths.astype(np.int32),
      sizes=field('original'),
      boxes=field('box'),
      grids=field('grid'),
      sides=field('size'),
      names=np.array(tokens.names, np.str_),
      policy=np.array(tokens.placements[0].policy, np.str_),
      fingerprint=np.array(tokens.fingerprint, np.str_),
    )


def load(path: str | os.PathLike[str]) -> TokenFile:
  """Reads a token file.

  Raises:
    UserError: It is missing, damaged or something else.
  """
  if not os.path.isfile(path):
    raise UserError(f'There is no token file {os.fspath(path)!r}.')
  try:
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle
      raise zipfile.BadZipFile('not an .npz file')
    with np.load(path, allow_pickle=False) as file:
      found = {name: file[name] for name in file.files}
    policy: Any = str(found['policy'])
    placements = tuple(
      images_lib.Placement(
        policy=policy,
        original=(size[0], size[1]),
        size=side,
        box=(box[0], box[1], box[2], box[3]),
        grid=(grid[0], grid[1]),
      )
      for size, box, grid, side in zip(
        found['sizes'].tolist(),
        found['boxes'].tolist(),
        found['grids'].tolist(),
        found['sides'].tolist(),
        strict=True,
      )
    )
    return TokenFile(
      codes=found['codes'],
      lengths=found['lengths'],
      names=tuple(map(str, found['names'])),
      placements=placements,
      fingerprint=str(found['fingerprint']),
    )
  except (
    ValueError,
    LookupError,
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
  ) as error:
    raise UserError(
      f'{os.fspath(path)} is no token file, or a damaged one; expected an '
      '.npz file that `tokpress encode` wrote.'
    ) from error
