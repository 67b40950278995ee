"""What a run would take, before anything runs."""

from collections.abc import Sequence
from typing import Any

import jax

from tokpress_jax.config import Config
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import sharding
from tokpress_jax.train.job import prepare
from tokpress_jax.train.step import compile_program


def dry_run(
  config: Config,
  *,
  devices: Sequence[jax.Device] | None = None,
  data: Any = None,
) -> dict[str, int]:
  """Prints where each variable lives and the bytes that one device needs.

  One batch is read and every program is compiled; no array of the model is
  made.

  Args:
    config: The whole configuration.
    devices: As in `fit`.
    data: As in `fit`.

  Returns:
    Bytes per device by name: `params`, `other variables`, `optimizer`, `ema`,
    `batch`, and for each program `<name>: arguments`, `temporary`, `peak`
    (an upper bound: arguments, temporaries and outputs that are not aliased).
  """
  job = prepare(config, devices=devices, data=data)
  local = next(iter(job.stream.batches(0)))
  batch = {
    name: jax.ShapeDtypeStruct(
      (x.shape[0] * job.share[1], *x.shape[1:]),
      jax.dtypes.canonicalize_dtype(x.dtype),
      sharding=mesh_lib.batch_sharding(job.mesh),
    )
    for name, x in local.items()
  }
  state, placed = job.abstract, job.shardings
  params = sharding.bytes_per_device(
    state.variables['params'], placed.variables['params']
  )
  sizes = {
    'params': params,
    'other variables': sharding.bytes_per_device(
      state.variables, placed.variables
    )
    - params,
    'optimizer': sharding.bytes_per_device(state.opt_state, placed.opt_state),
    'ema': sharding.bytes_per_device(state.ema, placed.ema),
    'batch': sharding.bytes_per_device(
      batch, jax.tree.map(lambda x: x.sharding, batch)
    ),
  }
  with jax.set_mesh(job.mesh):
    for index, program in enumerate(job.programs):
      memory = compile_program(job, index, batch).memory
      if memory is None:
        continue
      arguments = memory.argument_size_in_bytes
      temporary = memory.temp_size_in_bytes
      fresh = memory.output_size_in_bytes - memory.alias_size_in_bytes
      sizes |= {
        f'{program.name}: arguments': arguments,
        f'{program.name}: temporary': temporary,
        f'{program.name}: peak': arguments + temporary + max(fresh, 0),
      }
  if jax.process_index() == 0:
    print(sharding.table(state.variables, placed.variables))
    grid = ' x '.join(f'{axis} {n}' for axis, n in job.mesh.shape.items())
    print(f'\nmesh {grid}; MB per device:')
    width = max(map(len, sizes))
    for name, size in sizes.items():
      print(f'  {name:<{width}}  {size / 1e6:12.3f}')
  return sizes
