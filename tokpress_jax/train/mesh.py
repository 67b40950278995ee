"""Devices as a grid with the axes `data`, `fsdp` and `model`.

The batch is spread over `data` and `fsdp`, parameters over `fsdp` and `model`.
Neighbours along the last axis are nearest on the network.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.train.config import MeshConfig

AXES = ('data', 'fsdp', 'model')
BATCH_AXES = ('data', 'fsdp')


def make_mesh(
  config: MeshConfig, *, devices: Sequence[jax.Device] | None = None
) -> Mesh:
  """Arranges the devices.

  Args:
    config: Axis sizes, at most one of them -1.
    devices: The devices to use; all of them by default.

  Raises:
    UserError: If the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else list(devices)
  sizes = [getattr(config, axis) for axis in AXES]
  given = ', '.join(f'{a}={s}' for a, s in zip(AXES, sizes, strict=True))
  if sizes.count(-1) > 1 or any(s == 0 or s < -1 for s in sizes):
    raise UserError(
      f'The mesh is {given}; expected positive sizes and at most one -1, '
      'which takes the devices that are left.'
    )
  if -1 in sizes:
    known = math.prod(s for s in sizes if s != -1)
    sizes[sizes.index(-1)] = len(devices) // known
  if math.prod(sizes) != len(devices):
    raise UserError(
      f'The mesh is {given}, which does not fit {len(devices)} device(s); the '
      'product of the axes must be the number of devices. Try --mesh.data -1 '
      f'--mesh.fsdp {math.gcd(config.fsdp, len(devices))} --mesh.model 1.'
    )
  return jax.make_mesh(
    tuple(sizes), AXES, (AxisType.Auto,) * len(AXES), devices=devices
  )


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The sharding of the first dimension of every array of a batch."""
  return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """The sharding of an array that every device holds whole."""
  return NamedSharding(mesh, PartitionSpec())


def check_batch(mesh: Mesh, batch_size: int, *, accumulate: int = 1) -> None:
  """Raises `UserError` if the batch does not divide over the devices."""
  ways = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
  unit = ways * accumulate
  if batch_size % unit:
    down = batch_size - batch_size % unit
    near = ' or '.join(str(n) for n in (down, down + unit) if n)
    micro = f' x {accumulate} microbatches' if accumulate > 1 else ''
    raise UserError(
      f'train.batch_size is {batch_size}, which does not divide over '
      f'data {mesh.shape["data"]} x fsdp {mesh.shape["fsdp"]}{micro} = {unit}. '
      f'Try --train.batch-size {near}, or another mesh.'
    )


def host_share(mesh: Mesh, batch_size: int) -> tuple[int, int]:
  """Which part of a global batch this process has to provide.

  Processes that differ only along `model` provide the same part.

  Returns:
    (index, count): the batch is cut into `count` equal runs of rows and this
    process holds run number `index`.
  """
  spans = batch_sharding(mesh).addressable_devices_indices_map((batch_size,))
  rows = {
    span[0].indices(batch_size)[:2]
    for span in spans.values()
    if span is not None
  }
  start, stop = min(r[0] for r in rows), max(r[1] for r in rows)
  size = stop - start
  if sum(b - a for a, b in rows) != size or batch_size % size or start % size:
    raise UserError(
      f'Process {jax.process_index()} would hold rows {sorted(rows)} of the '
      'batch, which are not one run. Choose mesh.model (and mesh.fsdp) so that '
      f'each divides {jax.local_device_count()}, the devices of a process, or '
      'is a multiple of it.'
    )
  return start // size, batch_size // size


def put(x: Any, sharding: jax.sharding.Sharding) -> jax.Array:
  """Spreads a host array that every process holds whole.

  Unlike `jax.device_put`, without comparing it among the processes first.
  """
  x = np.asarray(x)
  return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])


def put_batch(
  batch: Mapping[str, np.ndarray], mesh: Mesh, *, count: int
) -> dict[str, jax.Array]:
  """Makes global arrays from the rows that this process holds.

  Args:
    batch: Host-local arrays [b, ...].
    mesh: The mesh.
    count: How many such parts the global batch has, from `host_share`.

  Returns:
    Global arrays [b * count, ...]; 64-bit integers become 32-bit ones.
  """
  sharding = batch_sharding(mesh)

  def spread(x: Any) -> jax.Array:
    x = np.asarray(x)
    x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)
    shape = (x.shape[0] * count, *x.shape[1:])
    return jax.make_array_from_process_local_data(sharding, x, shape)

  return {name: spread(x) for name, x in batch.items()}
