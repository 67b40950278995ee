"""The machine's peak: chained square matrix products, every dtype.

This is the yardstick for the other benchmarks: a fraction of what plain matrix
products reach on this machine with these versions, not of a data sheet. On a
CPU the float32 row is timed beside NumPy's BLAS.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.bench import harness

_CHAIN = 4  # Products per call, so that dispatch does not count.


def run(
  *,
  sizes: Sequence[int] | None = None,
  dtypes: Sequence[str] = ('float32', 'bfloat16'),
  repeats: int = 5,
) -> list[harness.Row]:
  """Times `x @ w` for square matrices.

  Args:
    sizes: Rows of the matrices; by default some that suit the device.
    dtypes: Of the operands. On a TPU or GPU, float32 at JAX's default
      precision is not full float32; there it has a row of each precision.
    repeats: Timed calls.

  Returns:
    One row per size, dtype and precision, with `flop_per_second`.
  """
  cpu = jax.default_backend() == 'cpu'
  sizes = sizes or ((512, 1024, 2048) if cpu else (2048, 4096, 8192))
  rows = []
  for size in sizes:
    for dtype in dtypes:
      precisions = ['default']
      if dtype == 'float32' and not cpu:
        precisions.append('highest')
      rows += [_row(size, dtype, p, repeats, cpu) for p in precisions]
  return rows


def peak(
  dtype: str = 'float32', *, sizes: Sequence[int] | None = None
) -> float:
  """Best operations per second over the sizes, on one device."""
  return max(r['flop_per_second'] for r in run(sizes=sizes, dtypes=(dtype,)))


def _row(
  size: int, dtype: str, precision: str, repeats: int, cpu: bool
) -> harness.Row:
  rng = np.random.default_rng(size)
  # Products with this w keep the scale of x.
  x = rng.standard_normal((size, size), np.float32)
  w = rng.standard_normal((size, size), np.float32) / np.float32(size**0.5)

  @jax.jit
  def ours(x, w):
    for _ in range(_CHAIN):
      x = jnp.matmul(x, w, precision=precision)
    return x

  def peer():
    y = x
    for _ in range(_CHAIN):
      y = y @ w
    return y

  device_x, device_w = jnp.asarray(x, dtype), jnp.asarray(w, dtype)
  calls = [lambda: ours(device_x, device_w)]
  if cpu and dtype == 'float32':
    calls.append(peer)
  seconds, *others = harness.time_calls(*calls, repeats=repeats)
  flops = _CHAIN * 2 * size**3
  row = {
    'name': f'matmul_{size}_{dtype}_{precision}',
    'dtype': dtype,
    'precision': precision,
    'size': size,
    'seconds': seconds,
    'flops': flops,
    'flop_per_second': flops / seconds,
  }
  if others:
    row |= harness.versus('numpy', seconds, others[0])
  return row
