"""SIGTERM, from a machine that is about to be taken away, and Ctrl-C.

One process: before the first step is done there is nothing to save, and a
handler that waits would only be asked again after a compilation; so it leaves
at once. Later the run saves at the next step boundary and leaves. Several
processes must stop at the same step; JAX's preemption service, which
`jax.distributed.initialize` starts, agrees on one.

Either way the exit code is `EXIT_CODE`: not done, start me again.

Ctrl-C (SIGINT) in one process saves and leaves in the same way, by a
KeyboardInterrupt (exit code 130); a second one does not wait for the step.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

from tokpress_jax.errors import EXIT_PREEMPTED

EXIT_CODE = EXIT_PREEMPTED


class PreemptedError(SystemExit):
  """The run was told to stop and has saved its state."""

  def __init__(self, step: int):
    super().__init__(EXIT_CODE)
    self.step = step


class Preemption:
  """Watches for SIGTERM and Ctrl-C while its `with` block runs."""

  def __init__(self) -> None:
    self._asked = False
    self._running = False
    self._interrupted = False
    self._previous: dict[int, Any] = {}
    # JAX's service has its own handler, which ours would replace.
    self._service = jax.distributed.is_initialized()
    main = threading.current_thread() is threading.main_thread()
    self._handles = main and not self._service

  def __enter__(self) -> 'Preemption':
    if self._handles:
      handlers = {signal.SIGTERM: self._on_signal}
      # A shell has its background jobs ignore Ctrl-C.
      if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handlers[signal.SIGINT] = self._on_interrupt
      for number, handler in handlers.items():
        self._previous[number] = signal.signal(number, handler)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    for number, previous in self._previous.items():
      signal.signal(number, previous or signal.SIG_DFL)

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    self._asked = True
    if not self._running:
      sys.stderr.write(
        'SIGTERM before the first step was done: nothing to save, leaving '
        f'with exit code {EXIT_CODE}.\n'
      )
      sys.stderr.flush()
      os._exit(EXIT_CODE)

  def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
    if not self._running or self._interrupted:
      raise KeyboardInterrupt
    self._interrupted = True
    text = '\nCtrl-C: saving after this step; once more to leave at once.\n'
    os.write(2, text.encode())

  @property
  def cause(self) -> str:
    """What told the run to stop; SIGTERM if both did."""
    ours = self._interrupted and not self._asked
    return 'Ctrl-C' if ours else 'SIGTERM'

  def error(self, step: int) -> BaseException:
    """Returns what to raise once this step is saved."""
    if self.cause == 'SIGTERM':
      return PreemptedError(step)
    return KeyboardInterrupt(f'saved step {step}')

  def reached(self, step: int) -> bool:
    """Whether to save and leave now; every process calls it at every step.

    Args:
      step: The number of finished steps.
    """
    self._running = True
    if self._service:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked or self._interrupted
