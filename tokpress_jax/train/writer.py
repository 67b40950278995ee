"""Where metrics go: `metrics.jsonl` always, TensorBoard and W&B if asked.

A line of `metrics.jsonl` is one JSON object with `step` and numbers. A resumed
run takes the lines after its checkpoint away first, because it computes them
again: the file reads as if the run had never stopped.
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from tokpress_jax import workdir as workdir_lib
from tokpress_jax.errors import UserError


class Writer(Protocol):
  """Takes numbers by name."""

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Records the metrics of a step, counted from 1."""

  def close(self) -> None:
    """Writes what is pending."""


class JsonLines:
  """Appends lines to `metrics.jsonl`, on a local disk or in a bucket.

  Args:
    workdir: The run's directory.
    after: The step the run resumes from; later lines are dropped.
  """

  def __init__(self, workdir: str, *, after: int = 0):
    from etils import epath

    self._path = epath.Path(workdir) / workdir_lib.METRICS
    self._path.parent.mkdir(parents=True, exist_ok=True)
    # A bucket has no append: its file is written anew.
    self._bucket = '://' in str(workdir)
    text = self._path.read_text() if self._path.exists() else ''
    kept = [line for line in text.splitlines() if _keeps(line, after)]
    self._text = ''.join(line + '\n' for line in kept)
    self._path.write_text(self._text)

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Appends one line; JSON has null where a number is NaN or infinite."""
    row = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
    line = json.dumps({'step': step, **row}, allow_nan=False) + '\n'
    if self._bucket:
      self._text += line
      self._path.write_text(self._text)
    else:
      with self._path.open('a') as file:
        file.write(line)

  def close(self) -> None:
    """Does nothing: every line is on disk."""


def _keeps(line: str, after: int) -> bool:
  """Whether a line was written before a run that resumes at `after` goes on."""
  try:
    found = json.loads(line)
  except ValueError:  # The line that was being written when the run died.
    return False
  if any(name.startswith('eval/') for name in found):
    return found['step'] < after  # A checkpoint comes before its evaluation.
  return found['step'] <= after


class TensorBoard:
  """Writes event files into `<workdir>/tensorboard`."""

  def __init__(self, workdir: str):
    try:
      import tensorboardX
    except ImportError as error:
      raise _missing('tensorboard', 'tensorboardX') from error
    self._writer = tensorboardX.SummaryWriter(f'{workdir}/tensorboard')

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Adds one scalar per metric."""
    for name, value in metrics.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes the event file."""
    self._writer.close()


class Wandb:
  """Logs to Weights & Biases; the same work directory is the same run."""

  def __init__(self, workdir: str, *, name: str, config: Mapping[str, Any]):
    try:
      import wandb
    except ImportError as error:
      raise _missing('wandb', 'wandb') from error
    run = f'{name}-{zlib.crc32(str(workdir).encode()):08x}'
    self._run = wandb.init(
      project='tokpress_jax',
      name=name,
      id=run,
      resume='allow',
      dir=workdir,
      config=dict(config),
    )

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Logs one step."""
    self._run.log(dict(metrics), step=step)

  def close(self) -> None:
    """Ends the run."""
    self._run.finish()


class Writers:
  """All writers of a run; silent on every process but the first.

  Args:
    workdir: The run's directory.
    names: `tensorboard` and `wandb`, or neither.
    after: The step the run resumes from.
    run: The run's name.
    config: The configuration, for W&B.
  """

  def __init__(
    self,
    workdir: str,
    names: Sequence[str] = (),
    *,
    after: int = 0,
    run: str = '',
    config: Mapping[str, Any] | None = None,
  ):
    self._writers: list[Writer] = []
    if jax.process_index() != 0:
      return
    self._writers.append(JsonLines(workdir, after=after))
    if 'tensorboard' in names:
      self._writers.append(TensorBoard(workdir))
    if 'wandb' in names:
      self._writers.append(Wandb(workdir, name=run, config=config or {}))

  def write(self, step: int, metrics: Mapping[str, float]) -> None:
    """Writes to all of them."""
    for writer in self._writers:
      writer.write(step, metrics)

  def __enter__(self) -> 'Writers':
    return self

  def __exit__(self, *_: object) -> None:
    for writer in self._writers:
      writer.close()


def _missing(extra: str, package: str) -> UserError:
  return UserError(
    f'train.writers asks for {extra!r}, but {package} is not installed. Install'
    f" it with: pip install 'tokpress_jax[{extra}]', or take {extra!r} out of"
    ' train.writers; metrics.jsonl is written in any case.'
  )
