"""What a person sees while a run goes on, and where its time goes."""

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import jax


class Ledger:
  """Seconds by what they were spent on (compile, data, step, ...)."""

  def __init__(self) -> None:
    self.seconds: dict[str, float] = {}

  @contextlib.contextmanager
  def time(self, name: str) -> Iterator[None]:
    """Adds the time inside the `with` block to `name`. Do not nest."""
    start = time.perf_counter()
    try:
      yield
    finally:
      spent = time.perf_counter() - start
      self.seconds[name] = self.seconds.get(name, 0.0) + spent

  def metrics(self) -> dict[str, float]:
    """Returns the seconds so far, as `seconds/<name>`."""
    return {f'seconds/{k}': round(v, 3) for k, v in self.seconds.items()}

  def __str__(self) -> str:
    total = sum(self.seconds.values()) or 1.0
    return 'time: ' + ', '.join(
      f'{name} {spent:.1f} s ({spent / total:.0%})'
      for name, spent in self.seconds.items()
    )


class Progress:
  """A bar with rate and time left on a terminal, plain lines elsewhere.

  Args:
    total: Steps of the whole run.
    start: Steps done before.
    batch_size: Images per step.
    out: Where to write; stdout by default. Only the first process writes.
  """

  def __init__(
    self,
    total: int,
    *,
    start: int = 0,
    batch_size: int,
    out: TextIO | None = None,
  ):
    self._out = sys.stdout if out is None else out
    self._on = jax.process_index() == 0
    self._total, self._batch_size = total, batch_size
    self._since = (0.0, start)
    self._bar = None
    if self._on and self._out.isatty():
      import tqdm

      self._bar = tqdm.tqdm(
        total=total, initial=start, unit='step', file=self._out
      )

  def say(self, text: str) -> None:
    """Prints a text, above the bar if there is one."""
    if self._bar is not None:
      self._bar.write(text, file=self._out)
    elif self._on:
      print(text, file=self._out, flush=True)

  def advance(self) -> None:
    """Counts one step."""
    if self._bar is not None:
      self._bar.update()

  def log(
    self, step: int, metrics: Mapping[str, float], *, seconds: float
  ) -> float:
    """Shows the metrics of a step.

    Args:
      step: The number of finished steps.
      metrics: Numbers by name; the loss is shown.
      seconds: Time spent on steps and data so far, without compilation,
        checkpoints and evaluations.

    Returns:
      Images per second since the last call.
    """
    then, before = self._since
    self._since = (seconds, step)
    rate = (step - before) / max(seconds - then, 1e-9)
    if self._bar is not None:
      self._bar.set_postfix(loss=f'{metrics["loss"]:.4g}', refresh=False)
    else:
      left = (self._total - step) / max(rate, 1e-9)
      self.say(
        f'step {step}/{self._total}  loss {metrics["loss"]:.4g}  '
        f'{rate:.3g} steps/s  {rate * self._batch_size:.4g} images/s  '
        f'left {_clock(left)}'
      )
    return rate * self._batch_size

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_: object) -> None:
    if self._bar is not None:
      self._bar.close()


def _clock(seconds: float) -> str:
  minutes, rest = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02d}:{rest:02d}'
