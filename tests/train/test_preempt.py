"""A run in a process of its own, killed in every way."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import toys

from tests.train import test_loop
from tokpress_jax.train import preempt

STEPS = 40
SCRIPT = """
  import dataclasses, os, signal, sys, time
  import jax
  jax.config.update('jax_num_cpu_devices', 1)
  import toys
  from tokpress_jax import registry
  from tokpress_jax.train import loop

  class Stream(toys.Stream):
    def batches(self, start_step=0):
      for batch in super().batches(start_step):
        time.sleep(0.03)
        yield batch

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Early(toys.Regression):
    def bind(self, info):
      os.kill(os.getpid(), signal.SIGTERM)
      time.sleep(1)
      return super().bind(info)

  registry.register('early', Early, family='task')
  toys.DATA.Stream = Stream
  workdir, early = sys.argv[1:]
  config = toys.config(
    Early() if early == 'early' else None,
    steps={steps}, checkpoint_every=5, ema_decay=0.9,
  )
  loop.fit(config, workdir, data=toys.DATA)
"""


def start(workdir, early='late'):
  here = pathlib.Path(__file__).resolve().parent
  path = os.pathsep.join([str(here), str(here.parent.parent)])
  # One device, compiled as this process does.
  flags = os.environ['XLA_FLAGS'].replace('device_count=8', 'device_count=1')
  env = {**os.environ, 'PYTHONPATH': path, 'XLA_FLAGS': flags}
  return subprocess.Popen(
    [
      sys.executable,
      '-c',
      textwrap.dedent(SCRIPT.format(steps=STEPS)),
      str(workdir),
      early,
    ],
    env=env,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def wait_for(process, workdir, step):
  """Waits until the run has logged this step."""
  path = workdir / 'metrics.jsonl'
  deadline = time.time() + 120
  while time.time() < deadline and process.poll() is None:
    lines = path.read_text().splitlines() if path.exists() else []
    if lines and json.loads(lines[-1])['step'] >= step:
      return
    time.sleep(0.01)
  raise AssertionError(process.communicate()[0])


def finish(process, code):
  out, _ = process.communicate(timeout=120)
  assert process.returncode == code, out
  return out


def test_sigterm_before_the_first_step_leaves_at_once(tmp_path):
  out = finish(start(tmp_path, 'early'), preempt.EXIT_CODE)
  assert 'before the first step' in out
  assert not (tmp_path / 'metrics.jsonl').exists()


def test_killed_twice_and_still_bitwise_the_same(tmp_path):
  workdir = tmp_path / 'killed'
  process = start(workdir)
  wait_for(process, workdir, 8)
  process.kill()
  finish(process, -signal.SIGKILL)

  process = start(workdir)
  wait_for(process, workdir, 18)
  process.terminate()
  out = finish(process, preempt.EXIT_CODE)
  last = test_loop.saved(workdir)[0][-1]
  assert f'saved step {last}' in out
  assert last == test_loop.rows(workdir)[-1]['step'] >= 18

  out = finish(start(workdir), 0)
  assert f'Training from step {last}' in out

  whole = tmp_path / 'whole'
  config = toys.config(steps=STEPS, checkpoint_every=5, ema_decay=0.9)
  test_loop.fit(config, whole)
  test_loop.equal(test_loop.saved(workdir)[1], test_loop.saved(whole)[1])
  assert test_loop.rows(workdir) == test_loop.rows(whole)
