"""The training loop, one for every task.

  python: fit(config, 'runs/x')        shell: tokpress train configs/x.py

A run is a function of its configuration: the batch and the randomness of a
step depend on the seed and the step only. Stopped at any moment and started
again, it ends with the same bits, on the same device layout.
"""

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tokpress_jax import config as config_lib
from tokpress_jax import workdir as workdir_lib
from tokpress_jax.errors import UserError
from tokpress_jax.io import load as load_lib
from tokpress_jax.train import sharding
from tokpress_jax.train.checkpoint import Checkpoints
from tokpress_jax.train.evaluate import Evaluator
from tokpress_jax.train.job import Job, prepare
from tokpress_jax.train.preempt import Preemption
from tokpress_jax.train.progress import Ledger, Progress
from tokpress_jax.train.state import TrainState, averaged
from tokpress_jax.train.step import Compiled, compile_program
from tokpress_jax.train.writer import Writers


class NonFiniteError(UserError):
  """A loss, gradient or metric became NaN or infinite; the run has stopped."""


def fit(
  config: config_lib.Config,
  workdir: str | os.PathLike[str],
  *,
  devices: Sequence[jax.Device] | None = None,
  data: Any = None,
) -> dict[str, float]:
  """Trains until `config.train.steps`, from the newest checkpoint if any.

  Args:
    config: The whole configuration.
    workdir: Directory of `config.json`, `metrics.jsonl`, `checkpoints/`; new,
      empty, or that of the same run.
    devices: The devices to train on; all by default.
    data: An object with `Stream` and `eval_batches` instead of
      `tokpress_jax.data`.

  Returns:
    The metrics of the last step and of the last evaluation (`eval/...`), and
    `step`.

  Raises:
    UserError: If the configuration does not fit, or the directory holds
      another run or more steps.
    NonFiniteError: If a loss, gradient or metric is NaN or infinite.
    PreemptedError: After SIGTERM, with the state saved (exit code 75).
    KeyboardInterrupt: After Ctrl-C, with the state saved.
  """
  workdir, train = os.fspath(workdir), config.train
  ledger = Ledger()
  with contextlib.ExitStack() as stack:
    enter = stack.enter_context
    preemption = enter(Preemption())
    with ledger.time('prepare'):
      workdir_lib.check(workdir, config)
      job = prepare(config, devices=devices, data=data)
      resumes = workdir_lib.is_started(workdir)
      if not resumes:
        if train.init_from is not None:
          _find_start(train.init_from)  # A wrong name leaves no directory.
        workdir_lib.claim(workdir, config)
    enter(jax.set_mesh(job.mesh))
    checkpoints = enter(
      Checkpoints(f'{workdir}/{workdir_lib.CHECKPOINTS}', keep=train.keep)
    )
    with ledger.time('init'):
      state, start = _start(job, checkpoints)
    if start > train.steps:
      raise UserError(
        f'{workdir} has done step {start} already, which is more than '
        f'--train.steps {train.steps}. Give {start} or more, or another '
        '--workdir.'
      )
    if resumes and start < train.steps:
      workdir_lib.claim(workdir, config)
    writers = enter(
      Writers(
        workdir,
        train.writers,
        after=start,
        run=config.name,
        config=config_lib.to_json(config),
      )
    )
    show = enter(
      Progress(train.steps, start=start, batch_size=train.batch_size)
    )
    if job.mesh.size > 1:
      show.say(sharding.table(state.variables, job.shardings.variables))
    else:
      show.say(sharding.total(state.variables))
    run = _Run(job, checkpoints, writers, show, ledger, preemption)
    if start and run.evaluates(start):
      run.evaluate(state, start)
    if start < train.steps:
      show.say(f'Training from step {start} to {train.steps}.')
      state = run.train(state, start)
    else:
      show.say(f'Step {start} of {train.steps} is done already.')
    show.say(str(ledger))
    return run.results


def _find_start(name: str) -> None:
  """Raises UserError unless there is a model that a run may start from."""
  try:
    load_lib.locate(name)
  except UserError as error:
    raise UserError(
      f'the run starts from train.init_from, which is not there: '
      f'{str(error).rstrip(".")}. Train it first (the docstring of the config '
      'says which), or name another: --train.init-from DIR.'
    ) from error


def _start(job: Job, checkpoints: Checkpoints) -> tuple[TrainState, int]:
  """Returns the newest valid state, or a new one, and its step."""
  found = checkpoints.restore(job.abstract)
  if found is not None:
    return found.state, found.step
  state = job.init()
  source = job.config.train.init_from
  if source is not None:
    state = job.warm_start(state, load_lib.load_variables(source))
  return state, 0


class _Run:
  """A run under way: the job and where its results go."""

  def __init__(
    self,
    job: Job,
    checkpoints: Checkpoints,
    writers: Writers,
    show: Progress,
    ledger: Ledger,
    preemption: Preemption,
  ):
    self.job = job
    self.results: dict[str, float] = {}
    self._checkpoints, self._writers, self._show = checkpoints, writers, show
    self._ledger, self._preemption = ledger, preemption
    self._evaluator = Evaluator(job)
    self._pending: tuple[int, Mapping[str, Any], Any] | None = None
    self._latest: dict[str, Any] = {}  # metrics since the last line

  def train(self, state: TrainState, start: int) -> TrainState:
    """Runs the steps from `start` on."""
    train, time = self.job.config.train, self._ledger.time
    with time('data'):
      batches = iter(self.job.stream.batches(start))
      local = next(batches)
      batch = self.job.put(local)
    with time('compile'):
      steps = [
        compile_program(self.job, i, batch)
        for i in range(len(self.job.programs))
      ]
    for step in range(start, train.steps):
      if step > start:
        with time('data'):
          local = next(batches)
          batch = self.job.put(local)
      with time('step'):
        state, metrics = self._step(steps, state, batch, step)
        if step == start:
          jax.block_until_ready(metrics)
        # While the device works on this step, look at the one before.
        self._flush()
        self._pending = (step + 1, metrics, local.get('index'))
      self._show.advance()
      done = step + 1
      preempted = self._preemption.reached(done)
      saves = done % train.checkpoint_every == 0 or done == train.steps
      if preempted or saves or self.evaluates(done):
        with time('step'):
          self._flush()
      if preempted or saves:
        self._save(done, state, wait=preempted or done == train.steps)
      if preempted:
        cause = self._preemption.cause
        self._show.say(f'{cause}: saved step {done}; the same command goes on.')
        raise self._preemption.error(done)
      if self.evaluates(done):
        self.evaluate(state, done)
    return state

  def _step(
    self, steps: Sequence[Compiled], state: TrainState, batch: Any, step: int
  ) -> tuple[TrainState, dict[str, Any]]:
    """Runs the programs that are active at this step, in order."""
    programs = self.job.programs
    found: dict[str, Any] = {}
    for program, compiled in zip(programs, steps, strict=True):
      if not program.active(step):
        continue
      state, metrics = compiled(state, batch, np.int32(step))
      if len(programs) == 1:
        return state, metrics
      found.setdefault('loss', metrics['loss'])
      found |= {f'{program.name}/{k}': v for k, v in metrics.items()}
    return state, found

  def _flush(self) -> None:
    """Checks and, if it is its turn, writes the step that is pending."""
    if self._pending is None:
      return
    (done, metrics, records), self._pending = self._pending, None
    train = self.job.config.train
    values = {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
    bad = {k: v for k, v in values.items() if not math.isfinite(v)}
    if bad:
      raise NonFiniteError(self._epitaph(done, bad, records))
    self._latest |= values
    if done % train.log_every and done not in (1, train.steps):
      return
    # A program that rests at this step shows its last one since the last line.
    values, self._latest = self._latest, {}
    values = {'loss': values.pop('loss'), **values}
    spent = self._ledger.seconds
    rate = self._show.log(done, values, seconds=spent['step'] + spent['data'])
    values['images_per_second'] = round(rate, 3)
    skipped = len(getattr(self.job.stream, 'skipped', ()))
    if skipped:
      values['skipped_records'] = skipped
    self._writers.write(done, {**values, **self._ledger.metrics()})
    self.results |= {'step': done, **values}

  def _epitaph(self, done: int, bad: Mapping[str, float], records: Any) -> str:
    steps = self._checkpoints.steps()
    left = f'step {steps[-1]}' if steps else 'none yet'
    which = ', '.join(f'{name} is {value}' for name, value in bad.items())
    rows = '' if records is None else f' Its records begin {records[:8]}.'
    return (
      f'Stopped at step {done}: {which}. The state was left as it was before; '
      f'the last good checkpoint is {left}.{rows} Try a lower '
      '--optim.learning-rate, a smaller --optim.clip-norm, or '
      '--train.precision float32.'
    )

  def _save(self, done: int, state: TrainState, *, wait: bool) -> None:
    meta = {'config': config_lib.to_json(self.job.config)}
    with self._ledger.time('checkpoint'):
      self._checkpoints.save(done, state, meta, wait=wait)

  def evaluates(self, done: int) -> bool:
    """Whether an evaluation follows this step, after its checkpoint.

    A run that resumes from that checkpoint repeats it.
    """
    train = self.job.config.train
    due = train.eval_every and done % train.eval_every == 0
    return bool(due) or done >= train.steps

  def evaluate(self, state: TrainState, done: int) -> None:
    """Evaluates the averaged parameters and writes the result."""
    with self._ledger.time('eval'):
      found = self._evaluator(averaged(state.variables, state.ema))
    values = {f'eval/{name}': value for name, value in found.items()}
    self._show.say(
      f'eval at step {done}: '
      + '  '.join(f'{name} {value:.4g}' for name, value in found.items())
    )
    self._writers.write(done, {**values, **self._ledger.metrics()})
    self.results |= {'step': done, **values}
