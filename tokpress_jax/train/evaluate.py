"""Evaluation: sums over a split, each example counted once."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tokpress_jax import workdir as workdir_lib
from tokpress_jax.config import Config
from tokpress_jax.errors import UserError
from tokpress_jax.train import tree
from tokpress_jax.train.checkpoint import Checkpoints
from tokpress_jax.train.job import Job, prepare
from tokpress_jax.train.state import averaged
from tokpress_jax.train.step import Compiled, compile_evaluation
from tokpress_jax.train.task import Variables


class Evaluator:
  """Runs a task's evaluation; compiled once, at the first batch."""

  def __init__(self, job: Job):
    self._job = job
    self._step: Compiled | None = None

  def __call__(self, variables: Variables) -> dict[str, float]:
    """Returns the metrics of the evaluation split.

    Args:
      variables: Global arrays; averaged parameters where the run has them.
    """
    config = self._job.config
    sums: dict[str, tuple[float, float]] = {}
    batches = self._job.data.eval_batches(
      config.data,
      split=config.data.eval_split,
      batch_size=config.train.batch_size,
      process_index=self._job.share[0],
      process_count=self._job.share[1],
    )
    for number, local in enumerate(batches):
      if number == config.train.eval_batches:
        break
      batch = self._job.put(local)
      if self._step is None:
        self._step = compile_evaluation(self._job, batch)
      out = jax.device_get(self._step(variables, batch, np.int32(number)))
      for name, (total, weight) in out.items():
        old = sums.get(name, (0.0, 0.0))
        sums[name] = (old[0] + float(total), old[1] + float(weight))
    return {
      name: total / weight if weight else math.nan
      for name, (total, weight) in sums.items()
    }


def evaluate(
  config: Config,
  workdir: str | os.PathLike[str],
  step: int | None = None,
  *,
  devices: Sequence[jax.Device] | None = None,
  data: Any = None,
) -> dict[str, float]:
  """Evaluates a checkpoint of a run, which may go on meanwhile.

  Args:
    config: The run's configuration; mesh and data may be others.
    workdir: The run's directory.
    step: The checkpoint's step; the newest valid one by default.
    devices: As in `fit`.
    data: As in `fit`.

  Returns:
    The metrics, and `step`.

  Raises:
    UserError: If there is no such checkpoint, or it is of another model.
  """
  job = prepare(config, devices=devices, data=data)
  directory = f'{os.fspath(workdir)}/{workdir_lib.CHECKPOINTS}'
  with Checkpoints(directory, read_only=True) as checkpoints:
    found = checkpoints.load('variables', 'ema', step=step)
  if found is None:
    raise UserError(f'No checkpoint in {directory}: nothing to evaluate.')
  variables, ema = found.state['variables'], found.state.get('ema', {})
  _check_same(directory, found.step, job.abstract.variables, variables)
  with jax.set_mesh(job.mesh):
    placed = job.place(averaged(variables, ema))
    return {'step': found.step, **Evaluator(job)(placed)}


def _check_same(where: str, step: int, expected: Any, given: Any) -> None:
  ours = {n: tuple(x.shape) for n, x in tree.named(expected).items()}
  theirs = {n: tuple(x.shape) for n, x in tree.named(given).items()}
  rows = [
    f'{n}: {theirs.get(n, "missing")} there, {ours.get(n, "missing")} here'
    for n in sorted(ours | theirs)
    if ours.get(n) != theirs.get(n)
  ]
  if rows:
    raise UserError(
      f'Checkpoint {step} in {where} is of another model: '
      f'{"; ".join(rows)}. Give the config that it was trained with.'
    )
