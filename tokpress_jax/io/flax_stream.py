"""Streams of `tux` (and EasyLM): Flax parameters, one after the other.

Such a file is a row of msgpack pairs: the path of a leaf, and the leaf as
`flax.serialization.to_bytes` writes an array. Nothing in it is a pickle, and
reading makes nothing but arrays.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from tokpress_jax.errors import UserError


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """Reads a stream.

  Args:
    path: The file, as `StreamingCheckpointer` of tux writes it.

  Returns:
    Names of leaves, joined with dots, to arrays; half precisions become
    float32.

  Raises:
    UserError: The file is missing, cut short or no such stream.
  """
  import msgpack
  from flax import serialization

  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f'There is no file {str(path)!r}.')
  found: dict[str, np.ndarray] = {}
  read_bytes = 0
  try:
    with path.open('rb') as file:
      unpacker = msgpack.Unpacker(file, max_buffer_size=0)
      for key, value in unpacker:
        array = serialization.msgpack_restore(value)
        if hasattr(array, 'shape'):
          found['.'.join(map(str, key))] = _float32(np.asarray(array))
        read_bytes = unpacker.tell()
  except Exception as error:  # Of msgpack, Flax and unpacking.
    raise _refused(path, str(error)) from error
  if not found or read_bytes != path.stat().st_size:
    raise _refused(path, 'it ends within a leaf')
  return found


def write(path: str | os.PathLike[str], tensors: dict[str, np.ndarray]) -> None:
  """Writes a stream: the inverse of `read`."""
  import msgpack
  from flax import serialization

  packer = msgpack.Packer()
  with pathlib.Path(path).open('wb') as file:
    for name, array in tensors.items():
      leaf = serialization.to_bytes(array)
      file.write(packer.pack((name.split('.'), leaf)))


def _float32(array: np.ndarray) -> np.ndarray:
  return array.astype(np.float32) if array.dtype.itemsize == 2 else array


def _refused(path: pathlib.Path, reason: str) -> UserError:
  return UserError(
    f'{path} is damaged, or no stream of Flax parameters (a file without a '
    f'suffix is taken for one): {reason}'
  )
