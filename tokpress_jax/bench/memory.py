"""Peak memory of a function, each in a process of its own.

A process that has run something else keeps its memory, so a peak means little
there. `python -m tokpress_jax.bench.memory MODULE:FUNCTION JSON` calls the
function with the JSON's keywords; it builds whatever it needs and returns a
call without arguments, which is run twice.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import resource
import subprocess
import sys
from typing import Any

from tokpress_jax.errors import UserError


def peak(target: str, **options: Any) -> dict[str, int]:
  """Runs a function in a fresh process.

  Args:
    target: 'package.module:function'.
    **options: its keywords, representable as JSON.

  Returns:
    Bytes: `weights` when it was built; `first_peak` over the first call,
    compilation included; `peak` over the second. On accelerators the device's
    memory, else that of the process (Linux; elsewhere all three are the peak so
    far).

  Raises:
    UserError: the process failed; its last lines are given.
  """
  command = [
    sys.executable,
    '-m',
    'tokpress_jax.bench.memory',
    target,
    json.dumps(options),
  ]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  if done.returncode:
    raise UserError(
      f'Measuring the memory of {target} failed with exit code '
      f'{done.returncode}:\n' + '\n'.join(done.stderr.splitlines()[-8:])
    )
  return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str]) -> None:
  """Prints what `peak` returns."""
  target, options = argv
  module, name = target.split(':')
  call = getattr(importlib.import_module(module), name)(**json.loads(options))
  _forget()
  found = {'weights': _now()}
  for when in ('first_peak', 'peak'):
    call()
    found[when] = _high_water()
    _forget()
  print(json.dumps(found))


def _device_stats() -> dict[str, int] | None:
  """The accelerator's counters, of whichever library holds it."""
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_available():
    return {
      'bytes_in_use': torch.cuda.memory_allocated(),
      'peak_bytes_in_use': torch.cuda.max_memory_allocated(),
    }
  jax = sys.modules.get('jax')
  if jax is None or jax.default_backend() == 'cpu':
    return None
  return jax.local_devices()[0].memory_stats()


def _now() -> int:
  stats = _device_stats()
  if stats is not None:
    return stats['bytes_in_use']
  return _status('VmRSS') or _highest()


def _high_water() -> int:
  stats = _device_stats()
  if stats is not None:
    return stats['peak_bytes_in_use']
  return _status('VmHWM') or _highest()


def _forget() -> None:
  """Sets the high-water mark to what is in use, where that can be done."""
  gc.collect()
  if sys.platform == 'linux':  # free memory may still count as the process's
    trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
    if trim is not None:
      trim(0)
  torch = sys.modules.get('torch')
  if torch is not None and torch.cuda.is_available():
    torch.cuda.reset_peak_memory_stats()
  if os.path.exists('/proc/self/clear_refs'):
    with open('/proc/self/clear_refs', 'w') as f:
      f.write('5')


def _status(field: str) -> int:
  """A field of this process's status in bytes, 0 if there is none."""
  if not os.path.exists('/proc/self/status'):
    return 0
  with open('/proc/self/status') as f:
    for line in f:
      if line.startswith(f'{field}:'):
        return int(line.split()[1]) * 1024
  return 0


def _highest() -> int:
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return most if sys.platform == 'darwin' else most * 1024


if __name__ == '__main__':
  main(sys.argv[1:])
