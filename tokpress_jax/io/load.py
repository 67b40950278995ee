"""Reading models: from a name to a module with its variables.

What a model directory and a single file hold is said in `io.export`.
"""

import dataclasses
import difflib
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import config as config_lib
from tokpress_jax import released, types
from tokpress_jax import workdir as workdir_lib
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import card, convert, hub, keymap, safetensors

MODEL = 'model.safetensors'
CONFIG = 'config.json'
TOKENIZER = 'tokenizer'
HEADER = 'tokpress'  # the name of a single file's description in its header


def load(
  name: str | os.PathLike[str],
  *,
  dtype: Any = jnp.float32,
  revision: str | None = None,
  tokenizer: str | os.PathLike[str] | types.Loaded | None = None,
) -> types.Loaded:
  """Loads a model; prints the licence of its weights.

  Args:
    name: Released weights by name ('var-d16', see `list_released`), a file of
      `tokpress convert`, a model directory, a work directory (its newest valid
      checkpoint), or 'owner/name' on the Hugging Face hub.
    dtype: Of the matmuls.
    revision: On the hub.
    tokenizer: Of a generator, in place of its own: a model or where it is.

  Returns:
    Module and variables; a generator with its tokenizer.

  Raises:
    UserError: There is no such model, or its files do not belong together.
  """
  path = locate(name, revision=revision)
  if workdir_lib.is_workdir(path):
    loaded = load_run(path, None, dtype)[2]
  else:
    loaded = _read(path, dtype, own_tokenizer=tokenizer is None)
    print(
      f'{loaded.spec.name} ({loaded.spec.family}) from {os.fspath(name)}; '
      f'licence of the weights: {loaded.spec.licence}'
    )
  if tokenizer is not None:
    if not isinstance(tokenizer, types.Loaded):
      tokenizer = load(tokenizer, dtype=dtype)
    loaded = dataclasses.replace(loaded, tokenizer=tokenizer)
  if loaded.tokenizer is not None:
    loaded.module.config.check_tokenizer(loaded.tokenizer)
  return loaded


def load_variables(name: str | os.PathLike[str]) -> types.Variables:
  """Reads a model's variables alone, for a warm start.

  Args:
    name: As in `load`, or a safetensors file with our names.
  """
  path = locate(name)
  if path.is_file():
    return safetensors.load(path)
  if workdir_lib.is_workdir(path):
    return {
      k: v for k, v in _run_variables(path, None)[1].items() if k != 'frozen'
    }
  return _read(path, jnp.float32).variables


def locate(
  name: str | os.PathLike[str], *, revision: str | None = None
) -> pathlib.Path:
  """Returns the path of a model; see `load` for the names.

  Raises:
    UserError: There is no such model, or it cannot be had.
  """
  if os.fspath(name) in released.RELEASED and not pathlib.Path(name).exists():
    return convert.fetch(os.fspath(name))
  text = os.fspath(name)
  near = difflib.get_close_matches(text, released.RELEASED, n=3, cutoff=0.8)
  if near and not pathlib.Path(text).exists():
    raise UserError(
      f'There is no {text!r}. {did_you_mean(text, released.RELEASED)} '
      '`tokpress list weights` shows all.'
    )
  return hub.resolve(name, revision=revision)


def load_run(
  workdir: str | os.PathLike[str], step: int | None, dtype: Any
) -> tuple[config_lib.Config, int, types.Loaded]:
  """Loads (config, step, model) from a run's checkpoint."""
  from tokpress_jax import data

  config = workdir_lib.read_config(workdir)
  step, variables = _run_variables(workdir, step)
  task = config.task.bind(data.open_dataset(config.data).info)
  own = {k: v for k, v in variables.items() if k != 'frozen'}
  expected = safetensors.flatten(jax.eval_shape(task.init, jax.random.key(0)))
  _check(
    f'Checkpoint {step} of {workdir}',
    {k: tuple(x.shape) for k, x in expected.items()},
    safetensors.flatten(own),
  )
  loaded = task.export(jax.tree.map(jnp.asarray, variables))
  module = loaded.module.config.build(dtype=dtype)
  spec = types.Spec(
    name=config.name,
    family=loaded.spec.family,
    config=module.config,
    source=os.fspath(workdir),
    licence=card.UNSTATED,
  )
  return (
    config,
    step,
    types.Loaded(
      module=module,
      variables=loaded.variables,
      spec=spec,
      tokenizer=loaded.tokenizer,
    ),
  )


def _read(
  path: pathlib.Path, dtype: Any, *, own_tokenizer: bool = True
) -> types.Loaded:
  """Reads a model and checks that its files belong together."""
  if path.is_file():
    weights, where = path, path
    text = safetensors.metadata(path).get(HEADER)
    if text is None:
      raise UserError(
        f'{path} does not say what model it is of. Official weights are '
        'converted first: tokpress convert KIND FILE --out FILE.safetensors'
      )
  else:
    weights, where = path / MODEL, path / CONFIG
    if not where.is_file() or not weights.is_file():
      raise UserError(
        f'{path} is neither a model directory ({CONFIG} and {MODEL}) nor a '
        'work directory. `tokpress export RUN DIR` makes one from a run.'
      )
    text = where.read_text()
  try:
    body = json.loads(text)
    config = config_lib.from_json(body['model'], object)
    shapes = {k: tuple(s) for k, s in body['arrays'].items()}
  except (ValueError, KeyError, AttributeError) as error:
    raise UserError(f'{where} does not describe a model: {error}.') from error
  flat = safetensors.load_flat(weights)
  _check(os.fspath(weights), shapes, flat)
  variables = safetensors.unflatten(flat)
  if safetensors.fingerprint(variables) != body.get('fingerprint'):
    raise UserError(
      f'{weights} is damaged, or not the file that its description was written '
      'with. Export, convert or download it again.'
    )
  found = None
  if own_tokenizer:
    found = _read_tokenizer(path, body.get('tokenizer', ''), dtype)
  spec = types.Spec(
    name=body.get('name', ''),
    family=body.get('family', ''),
    config=config,
    source=os.fspath(path),
    licence=body.get('licence', card.UNSTATED),
  )
  return types.Loaded(
    module=config.build(dtype=dtype),
    variables=jax.tree.map(jnp.asarray, variables),
    spec=spec,
    tokenizer=found,
  )


def _read_tokenizer(
  path: pathlib.Path, name: str, dtype: Any
) -> types.Loaded | None:
  """The tokenizer of a model, from its directory or by the name in its file."""
  if (path / TOKENIZER).is_dir():
    return _read(path / TOKENIZER, dtype)
  if not name:
    return None
  beside = path.parent / f'{name}.safetensors'
  for place in (beside, path.parent / name, pathlib.Path(name)):
    if place.exists():
      return _read(place, dtype)
  if name in released.RELEASED:
    return _read(convert.fetch(name), dtype)
  raise UserError(
    f'{path} belongs to the tokenizer {name!r}, which is neither beside it nor '
    'a path nor a released name: give load(..., tokenizer=...)'
  )


def _check(
  where: str, shapes: Mapping[str, tuple[int, ...]], flat: Mapping[str, Any]
) -> None:
  """Raises if arrays are not those of a model, naming every difference."""
  keymap.report(
    where,
    missing=[f'{k} {s}' for k, s in shapes.items() if k not in flat],
    unused=[k for k in flat if k not in shapes],
    misshaped=[
      f'{k}: {flat[k].shape} there, {s} expected'
      for k, s in shapes.items()
      if k in flat and flat[k].shape != s
    ],
  )


def _run_variables(
  workdir: str | os.PathLike[str], step: int | None
) -> tuple[int, types.Variables]:
  """Reads (step, averaged variables) of a run's checkpoint."""
  from tokpress_jax.train.checkpoint import Checkpoints
  from tokpress_jax.train.state import averaged

  directory = f'{os.fspath(workdir)}/{workdir_lib.CHECKPOINTS}'
  with Checkpoints(directory, read_only=True) as checkpoints:
    found = checkpoints.load('variables', 'ema', step=step)
  if found is None:
    raise UserError(f'{workdir} has no checkpoint yet: train it first.')
  return found.step, averaged(
    found.state['variables'], found.state.get('ema', {})
  )
