"""The tensors of one model out of a released file, or of a file in shards.

`.pth` files are pickles: they are read by `torch.load(weights_only=True)`,
which builds tensors and plain containers and refuses everything else. Nothing
else in this library unpickles.

A model in several files is given by its index, `model.safetensors.index.json`
or `pytorch_model.bin.index.json`, which says in which shard a tensor lies. Only
what is wanted is read: a projector of 50 MB out of a language model of 14 GB.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import flax_stream, safetensors

INDEX = '.index.json'
_PICKLES = ('.pth', '.pt', '.ckpt', '.bin')


@dataclasses.dataclass(frozen=True)
class Stored:
  """A tensor that still lies in its file.

  Attributes:
    path: the file.
    name: of the tensor in it.
  """

  path: pathlib.Path
  name: str


@dataclasses.dataclass(frozen=True)
class Found:
  """The tensors of a model.

  Attributes:
    tensors: released name to array, or to what stands for it.
    others: how many tensors beside them are of another model.
  """

  tensors: dict[str, Any]
  others: int


def read(
  path: str | os.PathLike[str],
  mark: str | Sequence[str],
  *,
  parts: Sequence[str] = (),
) -> Found:
  """Reads the tensors of one model out of a released file.

  Args:
    path: a `.safetensors` file, a `.pth` that needs the extra `convert`, the
      index of either in shards, which lie beside it, or a stream of Flax
      parameters, which has no suffix.
    mark: a tensor of the model. Where the file is a training checkpoint, the
      model's tensors are those beside this one; a prefix of it is dropped.
      Of several marks the first that is found counts.
    parts: starts of the names of the model's tensors, where it is a part of the
      file's; all are its if there are none.

  Returns:
    Arrays in float32 where they are of half precision.

  Raises:
    UserError: if a file is missing, damaged, holds more than tensors and plain
      containers, or no such model.
  """
  path = pathlib.Path(path)
  found = _find(path, mark, parts)
  names = _files(found)
  if lost := [n for n in names if not path.with_name(n).is_file()]:
    raise UserError(
      f'{path} names shards that are not beside it: {", ".join(lost)}. Put '
      'these there; others are not read.'
    )
  return dataclasses.replace(found, tensors=load(found.tensors))


def shards(
  path: str | os.PathLike[str],
  mark: str | Sequence[str],
  *,
  parts: Sequence[str] = (),
) -> list[str]:
  """Names of the files in which an index says that a model lies; see `read`.

  A file that is no index lies in itself: there are none.
  """
  path = pathlib.Path(path)
  if not path.name.endswith(INDEX):
    return []
  return _files(_find(path, mark, parts))


def _index(path: pathlib.Path) -> dict[str, Any]:
  """Which tensor lies in which shard, without opening one."""
  try:
    places = json.loads(path.read_text())['weight_map']
    bad = [p for p in places.values() if pathlib.PurePath(p).name != p]
    if bad:
      raise ValueError(f'{bad[0]!r} is no name of a file')
  except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
    raise UserError(
      f'{path} is no index of shards, an object whose "weight_map" gives the '
      f'file of each tensor: {error!r}.'
    ) from error
  return {
    name: Stored(path.with_name(place), name) for name, place in places.items()
  }


def _find(
  path: pathlib.Path, mark: str | Sequence[str], parts: Sequence[str]
) -> Found:
  """Picks a model's tensors; see `read`."""
  tree = tree_of(path)
  marks = (mark,) if isinstance(mark, str) else tuple(mark)
  beside = next(filter(None, (below(tree, m) for m in marks)), None)
  if beside is None:
    if all(name.startswith('params/') for name in _names(tree)):
      raise UserError(
        f'{path} is converted already; give it to `load` or as --model'
      )
    names = ', '.join(list(_names(tree))[:8])
    called = ' or '.join(map(repr, marks))
    raise UserError(
      f'{path} holds no such model: no tensor is called {called}. It has '
      f'{names}, ... Give the kind that the file is of.'
    )
  if not parts:
    return Found(beside, others=0)
  own = {k: x for k, x in beside.items() if k.startswith(tuple(parts))}
  return Found(own, others=sum(1 for _ in _names(tree)) - len(own))


def _files(found: Found) -> list[str]:
  stored = [x for x in found.tensors.values() if isinstance(x, Stored)]
  return sorted({x.path.name for x in stored})


def tree_of(path: str | os.PathLike[str]) -> Any:
  """Opens a file: nested containers of tensors, which `load` reads.

  Args:
    path: see `read`.

  Raises:
    UserError: if it is no such file, or damaged.
  """
  path = pathlib.Path(path)
  if path.name.endswith(INDEX):
    return _index(path)
  if not path.suffix:
    return flax_stream.read(path)
  if path.suffix not in (*_PICKLES, '.safetensors'):
    raise UserError(
      f'{path} is neither a .safetensors file nor a checkpoint of PyTorch '
      f'({", ".join(_PICKLES)}), nor the index of its shards ({INDEX}), nor a '
      'stream of Flax parameters, which has no suffix.'
    )
  if path.suffix == '.safetensors':
    return {name: Stored(path, name) for name in safetensors.names(path)}
  return _unpickle(path)


def below(tree: Any, mark: str) -> dict[str, Any] | None:
  """The mapping that holds `mark`, searched from the outside in."""
  if not isinstance(tree, Mapping):
    return None
  for name in tree:
    if isinstance(name, str) and (name == mark or name.endswith(f'.{mark}')):
      prefix = name[: len(name) - len(mark)]
      return {
        key[len(prefix) :]: value
        for key, value in tree.items()
        if key.startswith(prefix)
        and (isinstance(value, Stored) or hasattr(value, 'shape'))
      }
  for value in tree.values():
    found = below(value, mark)
    if found is not None:
      return found
  return None


def _unpickle(path: pathlib.Path) -> Any:
  if not path.is_file():
    raise UserError(f'There is no file {str(path)!r}.')
  try:
    import torch
  except ImportError:
    raise UserError(
      f'{path.name} is a checkpoint of PyTorch, and torch is not installed: '
      "pip install 'tokpress_jax[convert]'."
    ) from None
  try:
    return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
  except Exception as error:  # Zip, pickle and runtime errors of torch.
    reason = str(error).strip().splitlines()[0]
    raise UserError(
      f'{path} is damaged, or holds more than tensors and plain containers '
      f'(nothing else is read from a pickle): {reason}'
    ) from error


def _names(tree: Any, prefix: str = '') -> Iterator[str]:
  if isinstance(tree, Mapping):
    for name, value in tree.items():
      yield from _names(value, f'{prefix}.{name}' if prefix else str(name))
  else:
    yield prefix


def load(found: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Arrays in the place of what stands for them, file by file.

  Args:
    found: of `below`.

  Returns:
    NumPy arrays, in float32 where they are of half precision.

  Raises:
    UserError: if a shard is not what its index says.
  """
  files: dict[pathlib.Path, dict[str, str]] = {}
  for key, x in found.items():
    if isinstance(x, Stored):
      files.setdefault(x.path, {})[x.name] = key
  loaded: dict[str, Any] = dict(found)
  for path, keys in files.items():
    if path.suffix == '.safetensors':
      tensors: Mapping[str, Any] = safetensors.load_flat(path, only=keys)
    else:
      tensors = _unpickle(path)
    lost = [name for name in keys if name not in tensors]
    if lost:
      raise UserError(
        f'{path} lacks what its index says is in it: {", ".join(lost)}. '
        'Download both again.'
      )
    loaded |= {key: tensors[name] for name, key in keys.items()}
  return {key: _array(x) for key, x in loaded.items()}


def _array(tensor: Any) -> np.ndarray:
  """A NumPy array; half precisions become float32."""
  if not isinstance(tensor, np.ndarray):
    if tensor.dtype.is_floating_point:
      tensor = tensor.float()
    return tensor.numpy()
  half = tensor.dtype.itemsize == 2 and tensor.dtype.kind in 'fV'
  return tensor.astype(np.float32) if half else tensor
