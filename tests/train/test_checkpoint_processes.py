"""Two processes agree on which checkpoint is valid."""

import os
import pathlib
import socket
import subprocess
import sys

_WORKER = """
import pathlib, sys, warnings
import jax
port, me, directory = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
jax.distributed.initialize(f'127.0.0.1:{port}', 2, me)
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tokpress_jax.train.checkpoint import Checkpoints

mesh = jax.make_mesh((4,), ('data',), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, P('data'))
host = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)

def array(scale):
  return jax.make_array_from_callback(
      host.shape, split, lambda index: host[index] * scale)

checkpoints = Checkpoints(directory)
for step in (1, 2):
  checkpoints.save(step, {'w': array(step)}, {'step': step})
checkpoints.wait()
multihost_utils.sync_global_devices('saved')
if me == 0:  # Only the shards that process 1 wrote and will read are damaged.
  files = (directory / '2' / 'state' / 'ocdbt.process_1').rglob('*')
  path = max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)
multihost_utils.sync_global_devices('damaged')
like = {'w': jax.ShapeDtypeStruct(host.shape, host.dtype, sharding=split)}
with warnings.catch_warnings(record=True) as seen:
  warnings.simplefilter('always')
  step, state, meta = checkpoints.restore(like)
assert step == 1 and meta == {'step': 1}, step
assert any('Checkpoint 2' in str(w.message) for w in seen)
for shard in state['w'].addressable_shards:
  np.testing.assert_array_equal(shard.data, host[shard.index])
assert checkpoints.save(2, {'w': array(2)}, wait=True)
assert checkpoints.restore(like).step == 2
checkpoints.close()
print('agreed', me)
"""


def test_damage_seen_by_one_process_is_agreed_by_both(tmp_path):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    port = free.getsockname()[1]
  root = pathlib.Path(__file__).resolve().parents[2]
  environment = {
    **os.environ,
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
    'PYTHONPATH': str(root),
  }
  workers = [
    subprocess.Popen(
      [sys.executable, '-c', _WORKER, str(port), str(me), str(tmp_path / 'c')],
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for me in range(2)
  ]
  try:
    outputs = [worker.communicate(timeout=120)[0] for worker in workers]
  finally:
    for worker in workers:
      worker.kill()
  for me, output in enumerate(outputs):
    assert f'agreed {me}' in output, output
