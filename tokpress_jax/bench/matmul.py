"""The machine's peak: chained square matrix products, every dtype.

This is the yardstick for the other benchmarks: a fraction of what plain matrix
products reach on this machine with these versions, not of a data sheet. On a
CPU the float32 row is timed beside NumPy's BLAS.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.bench import harness

_CHAIN = 4  # Products per call, so that dispatch does not count.


def run(
  *,
  sizes: int | Sequence[int] | None = None,
  dtypes: str | Sequence[str] = ('float32', 'bfloat16'),
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
  sizes = (sizes,) if isinstance(sizes, int) else sizes
  dtypes = (dtypes,) if isinstance(dtypes, str) else dtypes
  rows = []
  for size in sizes:
    for dtype in dtypes:
      precisions = ['default']
      if dtype == 'float32' and not cpu:
        precisions.append('highest')
      rows += [_row(size, dtype, p, repeats, cpu) for p in precisions]
  return rows


def default_size() -> int:
  """A size at which this device is near its peak."""
  return 1024 if jax.default_backend() == 'cpu' else 8192


def operands(size: int) -> tuple[np.ndarray, np.ndarray]:
  """Two float32 matrices; products with the second keep the first's scale."""
  rng = np.random.default_rng(size)
  x = rng.standard_normal((size, size), np.float32)
  w = rng.standard_normal((size, size), np.float32) / np.float32(size**0.5)
  return x, w


def chain(
  size: int, dtype: str, *, precision: str = 'default'
) -> tuple[Callable[[], jax.Array], int]:
  """Returns a call that does chained products on one device, and its FLOPs."""
  x, w = (jnp.asarray(a, dtype) for a in operands(size))

  @jax.jit
  def products(x: jax.Array, w: jax.Array) -> jax.Array:
    for _ in range(_CHAIN):
      x = jnp.matmul(x, w, precision=precision)
    return x

  return lambda: products(x, w), _CHAIN * 2 * size**3


def _row(
  size: int, dtype: str, precision: str, repeats: int, cpu: bool
) -> harness.Row:
  ours, flops = chain(size, dtype, precision=precision)
  x, w = operands(size)

  def peer() -> np.ndarray:
    y = x
    for _ in range(_CHAIN):
      y = y @ w
    return y

  calls: list[Callable[[], Any]] = [ours]
  if cpu and dtype == 'float32':
    calls.append(peer)
  seconds, *others = harness.time_calls(*calls, repeats=repeats)
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
