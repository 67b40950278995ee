"""SIGTERM: what a machine sends that is about to be taken away.

One process: before the first step is done there is nothing to save, and a
handler that waits would only be asked again after a compilation; so it leaves
at once. Later the run saves at the next step boundary and leaves. Several
processes must stop at the same step; JAX's preemption service, which
`jax.distributed.initialize` starts, agrees on one.

Either way the exit code is `EXIT_CODE`: not done, start me again.
"""

import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h


class PreemptedError(SystemExit):
  """The run was told to stop and has saved its state."""

  def __init__(self, step: int):
    super().__init__(EXIT_CODE)
    self.step = step


class Preemption:
  """Watches for SIGTERM while its `with` block runs."""

  def __init__(self) -> None:
    self._asked = False
    self._running = False
    self._previous: Any = None
    # JAX's service has its own handler, which ours would replace.
    self._service = jax.distributed.is_initialized()
    main = threading.current_thread() is threading.main_thread()
    self._handles = main and not self._service

  def __enter__(self) -> 'Preemption':
    if self._handles:
      self._previous = signal.signal(signal.SIGTERM, self._on_signal)
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> None:
    if self._handles:
      signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)

  def _on_signal(self, number: int, frame: FrameType | None) -> None:
    self._asked = True
    if not self._running:
      sys.stderr.write(
        'SIGTERM before the first step was done: nothing to save, leaving '
        f'with exit code {EXIT_CODE}.\n'
      )
      sys.stderr.flush()
      os._exit(EXIT_CODE)

  def reached(self, step: int) -> bool:
    """Whether to save and leave now; every process calls it at every step.

    Args:
      step: The number of finished steps.
    """
    self._running = True
    if self._service:
      from jax.experimental import multihost_utils

      return multihost_utils.reached_preemption_sync_point(step)
    return self._asked
