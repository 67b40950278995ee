"""Released checkpoints to our files, and released names to loaded models."""

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
from tokpress_jax.io import checkpoints, keymap, safetensors


def convert(
  source: str | os.PathLike[str],
  name: str,
  *,
  scales: tuple[int, ...] | None = None,
  layout: str | None = None,
) -> types.Loaded:
  """Reads a released file as one of our models.

  Args:
    source: The file, or the index of its shards.
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
  found = checkpoints.read(source, kind.mark, parts=kind.parts)
  tensors = found.tensors
  if found.others:
    print(
      f'{os.fspath(source)}: {len(tensors)} tensors are those of {name}; '
      f'{found.others} others are of the model around it and are not read'
    )
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
    tree = checkpoints.tree_of(source)
    parts = [checkpoints.below(tree, mark) for mark in network.marks]
    if not any(parts):
      raise UserError(
        f'{source} is no part of {name}: it has none of '
        f'{", ".join(network.marks)}. Give {" and ".join(network.files)}.'
      )
    for part in filter(None, parts):
      tensors |= checkpoints.load(part)
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
  kind = released.KINDS[row.kind]
  shards = ''
  if row.file.endswith(checkpoints.INDEX):
    shards = f', with the shards that it names for {", ".join(kind.parts)}'
  by_hand = (
    f'Or download {row.file}{shards} from https://huggingface.co/'
    f'{row.repository} and run: tokpress convert {name} {row.file} --out {path}'
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
  for shard in checkpoints.shards(source, kind.mark, parts=kind.parts):
    print(f'{name}: downloading {shard}')
    huggingface_hub.hf_hub_download(row.repository, shard)
  for other in row.beside:
    # What is missing is said when the file is read.
    with contextlib.suppress(OSError, ValueError):
      huggingface_hub.hf_hub_download(row.repository, other)
  print(f'Converting {file} of {row.repository} to {path}')
  export.save_file(convert(source, name), path, tokenizer=row.tokenizer)
  return path
