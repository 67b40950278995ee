"""`tokpress evaluate MODEL`: a run's checkpoint, or an exported model."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from tokpress_jax import config as config_lib
from tokpress_jax import workdir
from tokpress_jax.data.config import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.io import export, hub
from tokpress_jax.train.config import MeshConfig, TrainConfig
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Measure a model on the evaluation split of a data set.

  Attributes:
    model: A work directory, a model directory or a hub name.
    step: Of a run: the checkpoint; the newest valid one by default.
    data: The data set; by default the one that a run was trained on.
    split: The split; by default the run's `data.eval_split`.
    batch_size: Images at once; by default the run's.
    json: Also write the metrics to this file.
  """

  model: tyro.conf.Positional[str]
  step: int | None = None
  data: str | None = None
  split: str | None = None
  batch_size: int | None = None
  json: str | None = None


def main(argv: Sequence[str]) -> None:
  """Prints the metrics, one per line."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress evaluate')
  path = hub.resolve(flags.model)
  if workdir.is_workdir(path):
    from tokpress_jax.train.evaluate import evaluate

    config = _override(workdir.read_config(path), flags)
    print(_measured(config.data))
    found = evaluate(config, path, flags.step)
  else:
    if not (path / export.CONFIG).is_file():
      raise UserError(
        f'{path} is neither a work directory nor a model directory (it has no '
        f'{export.CONFIG}). Give the --workdir of a `tokpress train`, or what '
        '`tokpress export` wrote.'
      )
    if flags.data is None:
      raise UserError(
        f'{flags.model} is an exported model: say on what to measure it, such '
        'as --data digits.'
      )
    found = _evaluate_model(path, flags)
  for name, value in found.items():
    print(f'{name:24} {value:.6g}')
  if flags.json:
    out = pathlib.Path(flags.json)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=2) + '\n')


def _evaluate_model(path: pathlib.Path, flags: Flags) -> dict[str, float]:
  import jax

  from tokpress_jax.train.evaluate import Evaluator
  from tokpress_jax.train.job import prepare
  from tokpress_jax.train.task import FROZEN

  loaded = export.load(path)
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
    tokenizer = str(path / export.TOKENIZER)
    return tasks.GeneratorTask(model=config, tokenizer=tokenizer)
  return tasks.ClassifierTask(model=config)


def _override(config: config_lib.Config, flags: Flags) -> config_lib.Config:
  given = lambda **fields: {k: v for k, v in fields.items() if v is not None}
  return dataclasses.replace(
    config,
    data=dataclasses.replace(
      config.data, **given(name=flags.data, eval_split=flags.split)
    ),
    train=dataclasses.replace(
      config.train, **given(batch_size=flags.batch_size)
    ),
  )
