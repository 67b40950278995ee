"""Writing models: `tokpress export`, and the files of `tokpress convert`.

A model directory holds

* `model.safetensors`: the variables, averaged weights where a run kept them
* `config.json`: family, licence, the model's config, and the name and shape of
  every array, so that weights of another model are noticed
* `README.md`: a model card
* `tokenizer/`: of a generator, its tokenizer, a model directory too

Released weights that `tokpress convert` wrote are one safetensors file with
what `config.json` says in its header. `io.load` reads both.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import config as config_lib
from tokpress_jax import registry, types
from tokpress_jax import workdir as workdir_lib
from tokpress_jax.errors import UserError
from tokpress_jax.io import card, safetensors
from tokpress_jax.io.load import CONFIG, HEADER, MODEL, TOKENIZER, load_run

CARD = 'README.md'


def export(
  module: Any,
  variables: types.Variables,
  out_dir: str | os.PathLike[str],
  *,
  tokenizer: types.Loaded | None = None,
  name: str = '',
  licence: str = '',
  facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
  """Writes a model directory.

  Args:
    module: A module whose `config` the registry knows.
    variables: Its variables.
    out_dir: A new directory, or one that held a model, which is replaced.
    tokenizer: Of a generator: what its codes mean.
    name: What the card calls it; the registry name by default.
    licence: Of the weights, such as 'CC-BY-4.0'.
    facts: Lines for the card: data set, steps, metrics.

  Returns:
    The directory.

  Raises:
    UserError: The directory holds something else.
  """
  out = pathlib.Path(out_dir).expanduser()
  foreign = not (out / MODEL).exists() and (
    out.is_file() or (out.is_dir() and any(out.iterdir()))
  )
  if foreign:
    raise UserError(
      f'{out} exists and is no model directory. Give a new directory.'
    )
  out.mkdir(parents=True, exist_ok=True)
  variables = jax.device_get(variables)
  body = _describe(module.config, variables, name, licence)
  safetensors.save(out / MODEL, variables, {'name': body['name']})
  (out / CONFIG).write_text(json.dumps(body, indent=2) + '\n')
  text = card.write(
    body,
    facts or {},
    has_tokenizer=tokenizer is not None,
    inputs=getattr(module, 'inputs', {}),
  )
  (out / CARD).write_text(text)
  if tokenizer is not None:
    export(
      tokenizer.module,
      tokenizer.variables,
      out / TOKENIZER,
      name=tokenizer.spec.name,
      licence=tokenizer.spec.licence or licence,
    )
  return out


def save_file(
  loaded: types.Loaded,
  path: str | os.PathLike[str],
  *,
  tokenizer: str = '',
) -> pathlib.Path:
  """Writes a model as one safetensors file, its config in the header.

  Args:
    loaded: The model; a tokenizer that it has is not written.
    path: The file.
    tokenizer: Of a generator: name or file of its tokenizer, see `load`.

  Returns:
    The file.
  """
  path = pathlib.Path(path).expanduser()
  path.parent.mkdir(parents=True, exist_ok=True)
  variables = jax.device_get(loaded.variables)
  spec = loaded.spec
  body = _describe(loaded.module.config, variables, spec.name, spec.licence)
  body['tokenizer'] = tokenizer
  part = path.with_name(f'.{path.name}.part')
  safetensors.save(part, variables, {HEADER: json.dumps(body)})
  part.replace(path)  # An interrupted write leaves no file that looks whole.
  return path


def _describe(
  config: Any, variables: types.Variables, name: str, licence: str
) -> dict[str, Any]:
  """What `config.json`, or the header of a single file, says of a model."""
  kind = registry.name_of(type(config))
  if kind is None:
    raise UserError(
      f'{type(config).__name__} is not in the registry; see '
      'tokpress_jax/registry.py.'
    )
  return {
    'format': 1,
    'name': name or kind,
    'family': registry.get(kind).family,
    'licence': licence or card.UNSTATED,
    'fingerprint': safetensors.fingerprint(variables),
    'model': config_lib.to_json(config),
    'arrays': {
      key: list(leaf.shape)
      for key, leaf in safetensors.flatten(variables).items()
    },
  }


def export_run(
  workdir: str | os.PathLike[str],
  out_dir: str | os.PathLike[str],
  *,
  step: int | None = None,
  licence: str = '',
) -> pathlib.Path:
  """Writes the model directory of a run's checkpoint.

  Args:
    workdir: The run's work directory.
    out_dir: See `export`.
    step: The checkpoint; the newest valid one by default.
    licence: Of the weights.
  """
  config, found, loaded = load_run(workdir, step, jnp.float32)
  facts = {
    'Trained on': f'`{config.data.name}`, split `{config.data.split}`',
    'Steps': f'{found} of {config.train.batch_size} images',
    **_last_evaluation(pathlib.Path(workdir)),
  }
  return export(
    loaded.module,
    loaded.variables,
    out_dir,
    tokenizer=loaded.tokenizer,
    name=config.name,
    licence=licence,
    facts=facts,
  )


def _last_evaluation(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the metrics of the last evaluation, for the card."""
  path = workdir / workdir_lib.METRICS
  rows = []
  if path.is_file():
    rows = [json.loads(line) for line in path.read_text().splitlines()]
  for row in reversed(rows):
    found = {k: v for k, v in row.items() if k.startswith('eval/')}
    if found:
      return {k: f'{v:.5g}' for k, v in found.items()}
  return {}
