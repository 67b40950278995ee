"""A config's training step, against the machine's matmul peak.

Each program of the config is timed on its own first batch, which stays on the
device: data loading is measured by the trainer's ledger, not here. Steps and
matrix products alternate, so `utilization` compares the two at the same clock.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from tokpress_jax.bench import harness, matmul
from tokpress_jax.bench.flops import count_flops

if TYPE_CHECKING:
  from tokpress_jax.config import Config
  from tokpress_jax.train.job import Job


def run(
  *,
  config: str | os.PathLike[str] | Config,
  repeats: int = 10,
  size: int | None = None,
) -> list[harness.Row]:
  """Times the training step of a config.

  Args:
    config: A config file or a `Config`. Its batch, precision and mesh are
      used as they are.
    repeats: Timed steps.
    size: Rows of the square matrices whose product is the peak; by default
      one that suits the device.

  Returns:
    One row per program: `flops` of a step (matmuls and convolutions, all
    devices), `flop_per_second`, `peak_flop_per_second` and their quotient
    `utilization`; `parameters`, `batch_size` and `images_per_second`.
  """
  from tokpress_jax import config as config_lib
  from tokpress_jax.train.job import prepare

  if isinstance(config, str | os.PathLike):
    config = config_lib.load(config)
  job = prepare(config)
  with jax.set_mesh(job.mesh):
    return [_row(job, i, repeats, size) for i in range(len(job.programs))]


def _row(job: Job, index: int, repeats: int, size: int | None) -> harness.Row:
  from tokpress_jax.train import step as step_lib

  config, program = job.config, job.programs[index]
  batch = job.put(next(job.stream.batches()))
  compiled = step_lib.compile_program(job, index, batch)
  number = jax.device_put(
    jnp.int32(program.active_from),
    jax.sharding.NamedSharding(job.mesh, jax.P()),
  )
  flops = count_flops(
    step_lib.make_step(job, program, index), job.abstract, batch, number
  )
  state = job.init()

  def step():
    nonlocal state  # Donated: each call takes the last one's result.
    state, metrics = compiled(state, batch, number)
    return metrics

  product, product_flops = matmul.chain(
    size or matmul.default_size(), config.train.precision
  )
  seconds, product_seconds = harness.time_calls(
    step, product, repeats=repeats, warmup=2
  )
  # Forced CPU devices share one machine's cores; others are one device each.
  devices = 1 if jax.default_backend() == 'cpu' else job.mesh.size
  peak = devices * product_flops / product_seconds
  return {
    'name': f'{config.name}/{program.name}',
    'dtype': config.train.precision,
    'batch_size': config.train.batch_size,
    'parameters': sum(
      x.size for x in jax.tree.leaves(state.variables['params'])
    ),
    'seconds': seconds,
    'images_per_second': config.train.batch_size / seconds,
    'flops': flops,
    'flop_per_second': flops / seconds,
    'peak_flop_per_second': peak,
    'utilization': flops / seconds / peak,
  }
