"""The machine's peak of 3x3 convolutions, and ours beside it.

XLA's own convolution is the yardstick (the peer here): `nn.conv2d` takes a form
with fewer products where it is faster. Operations are those of the definition,
2 per tap and channel pair, whatever is done instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import nn
from tokpress_jax.bench import harness

# Side and channels of the levels of VAR's decoder at 256 pixels.
LEVELS: tuple[tuple[int, int], ...] = (
  (16, 640),
  (32, 320),
  (64, 320),
  (128, 160),
  (256, 160),
)


def run(
  *,
  sides: int | Sequence[int] | None = None,
  channels: int | Sequence[int] | None = None,
  batch: int = 1,
  dtypes: str | Sequence[str] = ('float32', 'bfloat16'),
  repeats: int = 5,
) -> list[harness.Row]:
  """Times 3x3 convolutions of square maps.

  Args:
    sides: of the maps; those of VAR's decoder if None.
    channels: in and out, one for each side; those of VAR's decoder if None.
    batch: maps.
    dtypes: of maps and kernels.
    repeats: timed calls.

  Returns:
    One row per map and dtype, with `flop_per_second`.
  """
  levels = LEVELS
  if sides is not None and channels is not None:
    sides = (sides,) if isinstance(sides, int) else sides
    channels = (channels,) if isinstance(channels, int) else channels
    levels = tuple(zip(sides, channels, strict=True))
  dtypes = (dtypes,) if isinstance(dtypes, str) else dtypes
  rows = []
  for side, width in levels:
    for dtype in dtypes:
      ours, flops = call(side, width, dtype, batch=batch, function=nn.conv2d)
      plain, _ = call(side, width, dtype, batch=batch)
      seconds, plain_seconds = harness.time_calls(ours, plain, repeats=repeats)
      rows.append(
        {
          'name': f'conv_{side}_{width}_{dtype}',
          'dtype': dtype,
          'batch': batch,
          'flops': flops,
          'flop_per_second': flops / seconds,
          'peer_flop_per_second': flops / plain_seconds,
        }
        | harness.versus('XLA', seconds, plain_seconds)
      )
  return rows


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """XLA's 3x3 convolution of [B, H, W, C] with one zero around."""
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def operands(
  side: int, channels: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
  """A float32 map [B, side, side, C] and a kernel [3, 3, C, C]."""
  rng = np.random.default_rng(side)
  x = rng.standard_normal((batch, side, side, channels), np.float32)
  kernel = rng.standard_normal((3, 3, channels, channels), np.float32)
  return x, kernel / np.float32(3 * channels**0.5)


def call(
  side: int,
  channels: int,
  dtype: str,
  *,
  batch: int = 1,
  function: Callable[[jax.Array, jax.Array], jax.Array] = plain,
) -> tuple[Callable[[], jax.Array], int]:
  """Returns a call that convolves once on one device, and its FLOPs."""
  x, kernel = (jnp.asarray(a, dtype) for a in operands(side, channels, batch))
  flops = 2 * 9 * batch * side**2 * channels**2
  return functools.partial(jax.jit(function), x, kernel), flops
