"""Convolutions with fewer products against sums over the taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.nn import conv, winograd


def _taps(x, kernel):
  """The definition, in float64."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  height, width = x.shape[1:3]
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  return sum(
    padded[:, i : i + height, j : j + width] @ kernel[i, j]
    for i in range(3)
    for j in range(3)
  )


def _repeat(x):
  return np.asarray(x).repeat(2, axis=1).repeat(2, axis=2)


def _draw(seed, *shape):
  draw = np.random.default_rng(seed).standard_normal(shape, np.float32)
  return jnp.asarray(draw)


def _close(got, want, tolerance=2e-5):
  np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * want.std())


@pytest.mark.parametrize('strip_bytes', [0, 40_000, 2**30])
@pytest.mark.parametrize('shape', [(1, 16, 8, 5), (3, 8, 12, 3)])
def test_both_equal_the_sum_over_taps(monkeypatch, strip_bytes, shape):
  monkeypatch.setattr(winograd, '_STRIP_BYTES', strip_bytes)
  x, kernel = _draw(0, *shape), _draw(1, 3, 3, shape[-1], 7)
  _close(jax.jit(winograd.conv3x3)(x, kernel), _taps(x, kernel), 1e-4)
  x = x[:, :-1, :-3]  # any size may be doubled
  want = _taps(_repeat(x), kernel)
  _close(jax.jit(winograd.doubled_conv3x3)(x, kernel), want)


@pytest.mark.parametrize('height', [1, 2, 3, 4])
def test_the_smallest_maps(monkeypatch, height):
  monkeypatch.setattr(winograd, '_STRIP_BYTES', 0)
  x, kernel = _draw(0, 1, height, 2, 4), _draw(1, 3, 3, 4, 4)
  want = _taps(_repeat(x), kernel)
  _close(winograd.doubled_conv3x3(x, kernel), want)


def test_strips_cover_the_map_and_fit():
  rows = winograd._strip_rows
  assert rows(256, 2**16, multiple=4) == 128
  assert rows(256, 2**40, multiple=4) == 4
  assert rows(12, 2**21, multiple=4) == 4
  assert rows(2, 2**40, multiple=1) == 2  # one row and its halo do not fit


@pytest.mark.parametrize('doubled', [False, True])
def test_the_module_takes_them_and_keeps_its_derivatives(doubled):
  """On a wide map: values as `_taps`, derivatives of the plain form."""
  side = 16 if doubled else 32
  x = _draw(0, 1, side, side, 128)
  module = conv.Conv(128, doubled=doubled)
  variables = module.init(jax.random.key(0), x)
  kernel = variables['params']['kernel']
  loss = lambda v, x: jnp.sum(module.apply(v, x) ** 3)
  jaxpr = str(jax.make_jaxpr(module.apply)(variables, x))
  assert 'platform_index' in jaxpr and 'custom_jvp' in jaxpr
  wide = _repeat(x) if doubled else x
  _close(jax.jit(module.apply)(variables, x), _taps(wide, kernel), 1e-4)

  def plain(v, x):
    if doubled:
      x = conv.upsample(x)
    return jnp.sum(conv._convolve(x, v['params']['kernel']) ** 3)

  got = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
  want = jax.jit(jax.grad(plain, (0, 1)))(variables, x)
  _close(got[1], np.asarray(want[1]), 1e-4)
  got, want = (g[0]['params']['kernel'] for g in (got, want))
  _close(got, np.asarray(want), 1e-4)


def test_narrow_strided_and_half_precision_maps_do_without():
  x, kernel = _draw(0, 1, 32, 32, 128), _draw(1, 3, 3, 128, 128)
  trace = lambda x, kernel, **options: str(
    jax.make_jaxpr(lambda x, k: conv.conv2d(x, k, **options))(x, kernel)
  )
  half = jnp.bfloat16
  assert 'platform_index' in trace(x, kernel)
  assert 'platform_index' not in trace(x.astype(half), kernel.astype(half))
  assert 'platform_index' not in trace(x[..., :64], kernel[:, :, :64])
  assert 'platform_index' not in trace(x, kernel, stride=2)
  assert 'platform_index' not in trace(x, kernel, padding=((0, 1), (0, 1)))
  assert 'platform_index' not in trace(x[:, :-1], kernel)
  assert 'platform_index' not in trace(x[:, :8], kernel)
