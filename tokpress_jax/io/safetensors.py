"""Variables in safetensors files: nested dicts, 'params/encoder/kernel' keys.

Files are read and written as NumPy arrays; bfloat16 is kept.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from tokpress_jax.errors import UserError


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the leaves of nested dicts by path, 'params/encoder/kernel'."""
  flat: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      flat |= {f'{name}/{key}': leaf for key, leaf in flatten(value).items()}
    else:
      flat[name] = value
  return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
  """Inverse of `flatten`; empty dicts are not kept."""
  tree: dict[str, Any] = {}
  for key, leaf in flat.items():
    *parents, name = key.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[name] = leaf
  return tree


def save(
  path: str | os.PathLike[str],
  tree: Mapping[str, Any],
  metadata: Mapping[str, str] | None = None,
) -> None:
  """Writes nested dicts of arrays.

  Args:
    path: The file.
    tree: Arrays on the host or on devices; sharded ones are gathered.
    metadata: Strings for the file's header.
  """
  from safetensors.numpy import save_file

  flat = {
    name: np.asarray(leaf, order='C')
    for name, leaf in flatten(jax.device_get(tree)).items()
  }
  save_file(flat, os.fspath(path), metadata=dict(metadata or {}))
  # The library makes files that only their owner can read.
  umask = os.umask(0o077)
  os.umask(umask)
  os.chmod(path, 0o666 & ~umask)


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads nested dicts of NumPy arrays.

  Raises:
    UserError: The file is missing, or no whole safetensors file.
  """
  return unflatten(load_flat(path))


def load_flat(
  path: str | os.PathLike[str], *, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
  """Reads the arrays by their names in the file; see `load`.

  Args:
    path: The file.
    only: Names to read, those that are there; all if None.
  """
  with _opened(path) as file:
    found = file.keys()
    if only is not None:
      found = [name for name in found if name in only]
    return {name: file.get_tensor(name) for name in found}


def names(path: str | os.PathLike[str]) -> list[str]:
  """Reads the names of the arrays, and none of these; see `load`."""
  with _opened(path) as file:
    return list(file.keys())


def metadata(path: str | os.PathLike[str]) -> dict[str, str]:
  """Reads the strings of the file's header; see `load`."""
  with _opened(path) as file:
    return dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
  """An open safetensors file; says what else a file may be."""
  import safetensors

  name = os.fspath(path)
  if not os.path.isfile(path):
    raise UserError(f'There is no file {name!r}.')
  try:
    with safetensors.safe_open(name, framework='np') as file:
      yield file
  except safetensors.SafetensorError as error:
    suffix = os.path.splitext(name)[1]
    hint = {
      '.pth': 'a checkpoint of PyTorch, which is converted first: tokpress '
      'convert KIND FILE --out FILE.safetensors',
      '.tok': 'a file of tokens: give its tokenizer first, then the file',
    }
    hint['.pt'] = hint['.ckpt'] = hint['.bin'] = hint['.pth']
    if suffix in hint:
      raise UserError(f'{name} is no model but {hint[suffix]}.') from error
    raise UserError(
      f'{name} is not a whole safetensors file: {error}. Download, convert or '
      'export it again.'
    ) from error


def fingerprint(tree: Mapping[str, Any]) -> str:
  """Returns 16 hex digits that tell models apart: names, shapes and values."""
  digest = hashlib.sha256()
  for name, leaf in sorted(flatten(jax.device_get(tree)).items()):
    array = np.asarray(leaf, order='C')
    digest.update(json.dumps([name, str(array.dtype), array.shape]).encode())
    digest.update(array.tobytes())
  return digest.hexdigest()[:16]


def file_sha256(path: str | os.PathLike[str]) -> str:
  """Returns the SHA-256 of any file, in hexadecimal."""
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()
