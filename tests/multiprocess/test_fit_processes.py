"""Two processes with four devices each train as one with eight."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOYS = ROOT / 'tests' / 'train'

_COMMON = """
import json, os, signal, sys, time
import jax

def run(workdir, steps, mesh):
  import toys
  from tokpress_jax.train import loop

  class Stream(toys.Stream):
    def batches(self, start_step=0):
      for batch in super().batches(start_step):
        time.sleep(0.01)
        yield batch

  toys.DATA.Stream = Stream
  config = toys.config(
    steps=int(steps), batch_size=16, accumulate=2, ema_decay=0.9,
    checkpoint_every=100_000, mesh={**json.loads(mesh), 'fsdp_min_size': 8},
    optim={'schedule': 'constant'},
  )
  return loop.fit(config, workdir, data=toys.DATA)
"""
_WORKER = (
  _COMMON
  + """
port, me, workdir, steps, mesh = sys.argv[1:]
# As the command line does; JAX's preemption service must replace it.
signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(f'127.0.0.1:{port}', 2, int(me))
print(json.dumps(run(workdir, steps, mesh)))
"""
)
_ALONE = _COMMON + 'run(*sys.argv[1:])'


def spawn(script, *arguments, devices):
  return subprocess.Popen(
    [sys.executable, '-c', script, *map(str, arguments)],
    env={
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
      'PYTHONPATH': os.pathsep.join([str(ROOT), str(TOYS)]),
    },
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def pair(workdir, steps, mesh):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  return [
    spawn(_WORKER, port, me, workdir, steps, json.dumps(mesh), devices=4)
    for me in range(2)
  ]


def finish(workers, code):
  try:
    outputs = [worker.communicate(timeout=100)[0] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  for worker, output in zip(workers, outputs, strict=True):
    assert worker.returncode == code, output
  return outputs


def rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


@pytest.mark.multiprocess
def test_two_processes_stop_together_resume_and_equal_one(tmp_path):
  workdir = tmp_path / 'two'
  workers = pair(workdir, 10_000, {'data': 2, 'fsdp': 4})
  deadline = time.time() + 90
  log = workdir / 'metrics.jsonl'
  while time.time() < deadline and all(w.poll() is None for w in workers):
    if log.exists() and len(log.read_text().splitlines()) > 3:
      workers[1].terminate()  # Only one of them is told.
      break
    time.sleep(0.02)
  finish(workers, 75)
  saved = [int(path.name) for path in (workdir / 'checkpoints').iterdir()]
  assert saved == [rows(workdir)[-1]['step']]

  # The model axis now spans both processes: each holds the whole batch.
  steps = saved[0] + 3
  first, second = finish(pair(workdir, steps, {'data': 1, 'model': 8}), 0)
  assert f'Training from step {saved[0]} to {steps}' in first
  assert 'Training' not in second  # Process 0 speaks for both.
  results = [json.loads(out.splitlines()[-1]) for out in (first, second)]
  assert results[0]['eval/error'] == results[1]['eval/error']

  alone = tmp_path / 'one'
  finish([spawn(_ALONE, alone, steps, '{"fsdp": 8}', devices=8)], 0)
  ours, theirs = rows(workdir), rows(alone)
  assert [r['step'] for r in ours] == [r['step'] for r in theirs]
  for name in ('loss', 'grad_norm', 'commit_norm', 'eval/error'):
    np.testing.assert_allclose(
      [r[name] for r in ours if name in r],
      [r[name] for r in theirs if name in r],
      rtol=1e-4 if name == 'eval/error' else 1e-5,
      err_msg=name,
    )
