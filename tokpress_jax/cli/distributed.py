"""Joining the other processes of a run, before any device is touched."""

import glob
import importlib.util
import os
import warnings

import jax

from tokpress_jax.errors import UserError

_EXPLICIT = ('TOKPRESS_COORDINATOR', 'TOKPRESS_PROCESSES', 'TOKPRESS_PROCESS')


def initialize() -> None:
  """Calls `jax.distributed.initialize` where there is something to join.

  Three cases: TOKPRESS_COORDINATOR (host:port), TOKPRESS_PROCESSES and
  TOKPRESS_PROCESS (from 0) say it all, anywhere; on a TPU host, and in a Slurm
  job of several tasks, JAX finds the others by itself; elsewhere nothing is
  done.

  Raises:
    UserError: Only some of the three variables are set, or not to numbers.
  """
  if jax.distributed.is_initialized():
    return
  given = {name: os.environ.get(name, '') for name in _EXPLICIT}
  if any(given.values()):
    coordinator, *numbers = given.values()
    if not coordinator or not all(n.isdigit() for n in numbers):
      raise UserError(
        f'To join several processes set all of {", ".join(_EXPLICIT)} '
        f'(host:port, a number, a number from 0); got {given}.'
      )
    count, index = map(int, numbers)
    jax.distributed.initialize(coordinator, count, index)
  elif _on_tpu() or int(os.environ.get('SLURM_NTASKS') or 1) > 1:
    try:
      jax.distributed.initialize()
    except (ValueError, RuntimeError) as error:
      # A TPU without Google's metadata server, such as a notebook's.
      warnings.warn(
        f'Running as a single process, not joined with others: {error}',
        stacklevel=2,
      )


def _on_tpu() -> bool:
  platforms = os.environ.get('JAX_PLATFORMS') or 'tpu'
  devices = glob.glob('/dev/accel*') or glob.glob('/dev/vfio/[0-9]*')
  libtpu = importlib.util.find_spec('libtpu') is not None
  return bool(devices) and 'tpu' in platforms and libtpu
