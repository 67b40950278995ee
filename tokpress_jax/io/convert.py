"""Released checkpoints to our files, and released names to loaded models.

`.pth` files are pickles: they are read by `torch.load(weights_only=True)`,
which builds tensors and plain containers and refuses everything else. Nothing
else in this library unpickles.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokpress_jax import released, types
from tokpress_jax.errors import UserError
from tokpress_jax.io import flax_stream, keymap, safetensors

_PICKLES = ('.pth', '.pt', '.ckpt', '.bin')


def read_checkpoint(
  path: str | os.PathLike[str], mark: str | Sequence[str]
) -> dict[str, np.ndarray]:
  """Reads the tensors of one model out of a released file.

  Args:
    path: A `.safetensors` file, a `.pth` that needs the extra `convert`, or a
      stream of Flax parameters, which has no suffix.
    mark: A tensor of the model. Where the file is a training checkpoint, the
      model's tensors are those beside this one; a prefix of it is dropped.
      Of several marks the first that is found counts.

  Returns:
    Released name -> array.

  Raises:
    UserError: The file is missing, damaged, holds more than tensors and plain
      containers, or no such model.
  """
  path = pathlib.Path(path)
  tree = _read(path)
  marks = (mark,) if isinstance(mark, str) else tuple(mark)
  found = next(filter(None, (_below(tree, m) for m in marks)), None)
  if found is None:
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
  return {name: _array(x) for name, x in found.items()}


def _read(path: pathlib.Path) -> Any:
  if not path.suffix:
    return flax_stream.read(path)
  if path.suffix not in (*_PICKLES, '.safetensors'):
    raise UserError(
      f'{path} is neither a .safetensors file nor a checkpoint of PyTorch '
      f'({", ".join(_PICKLES)}), nor a stream of Flax parameters, which has no '
      'suffix.'
    )
  if path.suffix == '.safetensors':
    return safetensors.load_flat(path)
  return _unpickle(path)


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


def _names(tree: Any, prefix: str = '') -> Any:
  if isinstance(tree, Mapping):
    for name, value in tree.items():
      yield from _names(value, f'{prefix}.{name}' if prefix else str(name))
  else:
    yield prefix


def _below(tree: Any, mark: str) -> dict[str, Any] | None:
  """The mapping that holds `mark`, searched from the outside in."""
  if not isinstance(tree, Mapping):
    return None
  for name in tree:
    if isinstance(name, str) and (name == mark or name.endswith(f'.{mark}')):
      prefix = name[: len(name) - len(mark)]
      return {
        key[len(prefix) :]: value
        for key, value in tree.items()
        if key.startswith(prefix) and hasattr(value, 'shape')
      }
  for value in tree.values():
    found = _below(value, mark)
    if found is not None:
      return found
  return None


def _array(tensor: Any) -> np.ndarray:
  """A NumPy array; half precisions become float32."""
  if isinstance(tensor, np.ndarray):
    return tensor
  if tensor.dtype.is_floating_point:
    tensor = tensor.float()
  return tensor.numpy()


def convert(
  source: str | os.PathLike[str],
  name: str,
  *,
  scales: tuple[int, ...] | None = None,
  layout: str | None = None,
) -> types.Loaded:
  """Reads a released file as one of our models.

  Args:
    source: The file.
    name: Its kind ('var': sizes are read off the tensors), or the name of a
      released file ('var-d16': it must have exactly its sizes).
    scales: Sides of the scales, of kinds that have them and where the released
      ones are not meant.
    layout: Of the tokens of a TiTok, 'legacy' or 'token'. No tensor says it: a
      released name does, and of another file it follows from its head unless
      it is given.

  Returns:
    Module and variables (NumPy), without a tokenizer.

  Raises:
    UserError: The file is no such model, with one report of every missing,
      unused and mis-shaped tensor; or an option is not one of its kind.
  """
  kind, row = released.kind_of(name)
  given = {'scales': scales, 'layout': layout}
  options = {key: value for key, value in given.items() if value is not None}
  _check_options(kind, row, options)
  tensors = read_checkpoint(source, kind.mark)
  if row is not None and row.config:
    config = row.make_config()
  else:
    shapes = {key: tuple(x.shape) for key, x in tensors.items()}
    config = kind.attribute(kind.config_of)(shapes, **options)
  if kind.describe:
    config = kind.attribute(kind.describe)(config, _description(source))
  if kind.prepare:
    tensors = kind.attribute(kind.prepare)(tensors)
  variables = keymap.convert(
    tensors,
    kind.attribute('RULES'),
    kind.attribute('expected')(config),
    where=os.fspath(source),
  )
  spec = types.Spec(
    name=name,
    family=config.family,
    config=config,
    source=os.fspath(source),
    licence=kind.licence,
  )
  return types.Loaded(module=config.build(), variables=variables, spec=spec)


def _description(source: str | os.PathLike[str]) -> dict[str, Any]:
  """What a file's header and the config.json beside it say of its model."""
  path = pathlib.Path(source)
  found: dict[str, Any] = {}
  if path.suffix == '.safetensors':
    found |= safetensors.metadata(path)
  beside = path.with_name('config.json')
  if beside.is_file():
    try:
      found |= json.loads(beside.read_text())
    except (ValueError, TypeError) as error:
      raise UserError(f'{beside} is no JSON object: {error}.') from error
  return found


def _check_options(
  kind: released.Kind, row: released.Released | None, options: Mapping[str, Any]
) -> None:
  """Refuses options that say nothing, or what a released name says."""
  for key, value in options.items():
    if key not in kind.options:
      allowed = ', '.join(kind.options) or 'no option'
      raise UserError(
        f'{key}={value!r} is not of files of the kind {kind.name!r}, which '
        f'take {allowed}.'
      )
    if row is not None:
      raise UserError(
        f'{row.name} is one published file, whose {key} is known. Give the '
        f'kind, {kind.name}, to say {key}={value!r}.'
      )


def convert_network(
  sources: Sequence[str | os.PathLike[str]], name: str
) -> types.Variables:
  """Reads the files of a network that measures or trains models.

  Args:
    sources: The files, in any order; each may hold all of it or a part.
    name: A row of `released.NETWORKS`.

  Returns:
    Variables (NumPy).

  Raises:
    UserError: A file is no part of it; one report of every missing, unused and
      mis-shaped tensor.
  """
  network = released.NETWORKS[name]
  tensors: dict[str, np.ndarray] = {}
  for source in map(pathlib.Path, sources):
    tree = _read(source)
    parts = [_below(tree, mark) for mark in network.marks]
    if not any(parts):
      raise UserError(
        f'{source} is no part of {name}: it has none of '
        f'{", ".join(network.marks)}. Give {" and ".join(network.files)}.'
      )
    for part in filter(None, parts):
      tensors |= {key: _array(x) for key, x in part.items()}
  return keymap.convert(
    tensors,
    network.attribute('RULES'),
    network.attribute('expected')(),
    where=', '.join(map(str, sources)),
  )


def models_dir() -> pathlib.Path:
  """Where converted released weights lie: $TOKPRESS_MODELS or the cache."""
  default = pathlib.Path.home() / '.cache' / 'tokpress_jax' / 'models'
  return pathlib.Path(os.environ.get('TOKPRESS_MODELS', default)).expanduser()


def fetch(name: str) -> pathlib.Path:
  """Returns our file of released weights, downloading and converting it once.

  Args:
    name: A row of `released.RELEASED`.

  Raises:
    UserError: It can neither be found nor downloaded; says how to get it.
  """
  from tokpress_jax.io import export

  row = released.RELEASED[name]
  path = models_dir() / f'{name}.safetensors'
  if path.is_file():
    return path
  if not row.repository:
    raise UserError(
      f'{name} is not in {path.parent}, and no command downloads it: its '
      f'authors link {row.file} on the page of their code. Get it there and '
      f'run: tokpress convert {name} {row.file} --out {path}'
    )
  by_hand = (
    f'Or download {row.file} from https://huggingface.co/{row.repository} '
    f'and run: tokpress convert {name} {row.file} --out {path}'
  )
  try:
    import huggingface_hub
  except ImportError:
    raise UserError(
      f'{name} is not in {path.parent}. To download it: pip install '
      f"'tokpress_jax[hub,convert]'. {by_hand}"
    ) from None
  source, failures = None, []
  for file in (row.file, *row.instead):
    print(f'{name}: downloading {file} of huggingface.co/{row.repository}')
    try:
      source = huggingface_hub.hf_hub_download(row.repository, file)
      break
    except (OSError, ValueError) as error:
      failures.append(error)
      if type(error).__name__ == 'LocalEntryNotFoundError':
        break  # The hub was not reached: another name would not be either.
  if source is None:
    first = failures[0]
    reason = (str(first).strip() or type(first).__name__).splitlines()[0]
    raise UserError(
      f'{name} is not in {path.parent}, and the Hugging Face hub did not give '
      f'it: {reason} {by_hand}'
    ) from first
  for other in row.beside:
    # What is missing is said when the file is read.
    with contextlib.suppress(OSError, ValueError):
      huggingface_hub.hf_hub_download(row.repository, other)
  print(f'Converting {file} of {row.repository} to {path}')
  export.save_file(convert(source, name), path, tokenizer=row.tokenizer)
  return path
