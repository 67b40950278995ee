"""`tokpress evaluate`: a run, a model, or images, by their numbers."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from tokpress_jax import config as config_lib
from tokpress_jax import workdir
from tokpress_jax.cli.evaluate_flags import Flags, check_used
from tokpress_jax.data.config import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.io import hub
from tokpress_jax.io import load as load_lib
from tokpress_jax.train.config import MeshConfig, TrainConfig
from tokpress_jax.types import Loaded

_FILE = 'evaluation.json'
_MANY = 10_000


def main(argv: Sequence[str]) -> None:
  """Prints the metrics, one per line."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress evaluate')
  if flags.model is None and not (flags.samples or flags.save_statistics):
    raise UserError(
      'Name a model, or --samples FILE.npz to measure images that are there.'
    )
  compares = flags.metrics or flags.inception or flags.reference or flags.save
  if flags.model is None or flags.samples or compares:
    _compare(flags)
    return
  check_used(flags, 'a model by its own task')
  found = _by_task(flags, hub.resolve(flags.model))
  for name, value in found.items():
    print(f'{name:24} {value:.6g}')
  if flags.json:
    _write(flags.json, found)


def _compare(flags: Flags) -> None:
  """Compares images by the Inception network, and writes the recipes."""
  from tokpress_jax.cli import compare

  numbers = compare.compare(flags)
  if not numbers:
    return
  for name, number in numbers.items():
    print(f'{name:24} {number["value"]:.6g}')
  few = [
    f'{name} of {number["recipe"]["samples"]["count"]:,} samples'
    for name, number in numbers.items()
    if name.endswith('fid') and number['recipe']['samples']['count'] < _MANY
  ]
  if few:
    print(
      f'note: {", ".join(few)} is too large by an amount that depends on their '
      'number; compare with numbers of as many (published ones take 50,000)'
    )
  out = flags.json or _FILE
  _write(out, numbers)
  print(f'numbers and their recipes: {out}')


def _write(path: str, found: Any) -> None:
  out = pathlib.Path(path)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(found, indent=2) + '\n')


def _by_task(flags: Flags, path: pathlib.Path) -> dict[str, float]:
  """The metrics of the task that trains such a model."""
  if path.is_file():
    raise UserError(
      f'{flags.model} is a file of weights, without a task: say what to '
      'measure by --metrics (see `tokpress evaluate --help`).'
    )
  if workdir.is_workdir(path):
    from tokpress_jax.train.evaluate import evaluate

    config = _override(workdir.read_config(path), flags)
    print(_measured(config.data))
    return evaluate(config, path, flags.step)
  if not (path / load_lib.CONFIG).is_file():
    raise UserError(
      f'{path} is neither a work directory nor a model directory (it has no '
      f'{load_lib.CONFIG}). Give the --workdir of a `tokpress train`, or what '
      '`tokpress export` wrote.'
    )
  if flags.data is None:
    raise UserError(
      f'{flags.model} is an exported model: say on what to measure it, such '
      'as --data digits.'
    )
  return _evaluate_model(path, flags)


def _evaluate_model(path: pathlib.Path, flags: Flags) -> dict[str, float]:
  import jax

  from tokpress_jax.train.evaluate import Evaluator
  from tokpress_jax.train.job import prepare
  from tokpress_jax.train.task import FROZEN

  loaded = load_lib.load(path)
  data = DataConfig(
    image_size=getattr(loaded.module.config, 'image_size', None)
  )
  if loaded.tokenizer is not None:
    size = loaded.tokenizer.module.config.image_size
    data = dataclasses.replace(data, image_size=size)
  base = config_lib.Config(
    name=loaded.spec.name,
    task=_task(loaded, path),
    data=data,
    train=TrainConfig(),
    mesh=MeshConfig(),
  )
  config = _override(base, flags)
  print(_measured(config.data))
  job = prepare(config)
  variables = dict(loaded.variables)
  if FROZEN in job.abstract.variables:
    variables[FROZEN] = job.constants
  with jax.set_mesh(job.mesh):
    return Evaluator(job)(job.place(variables))


def _measured(data: DataConfig) -> str:
  return f'measured on data set {data.name}, split {data.eval_split}'


def _task(loaded: Loaded, path: pathlib.Path) -> Any:
  """The task that would have trained this model."""
  from tokpress_jax.train import tasks

  config = loaded.module.config
  if loaded.spec.family == 'tokenizer':
    return tasks.TokenizerTask(model=config)
  if loaded.spec.family == 'generator':
    tokenizer = str(path / load_lib.TOKENIZER)
    return tasks.GeneratorTask(model=config, tokenizer=tokenizer)
  return tasks.ClassifierTask(model=config)


def _override(config: config_lib.Config, flags: Flags) -> config_lib.Config:
  given = lambda **fields: {k: v for k, v in fields.items() if v is not None}
  return dataclasses.replace(
    config,
    data=dataclasses.replace(
      config.data,
      **given(name=flags.data, eval_split=flags.split, data_dir=flags.data_dir),
    ),
    train=dataclasses.replace(
      config.train, **given(batch_size=flags.batch_size)
    ),
  )
