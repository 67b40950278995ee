"""Convolutions with fewer products against sums over the taps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.nn import conv, norms, winograd


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


def test_a_norm_and_its_activation_go_before(monkeypatch):
  """Zeros around the map are added after the activation."""
  monkeypatch.setattr(winograd, '_STRIP_BYTES', 0)  # strips of four rows
  x = 2 + _draw(0, 2, 16, 32, 128)
  kernel = _draw(1, 3, 3, 128, 128)
  norm = norms.GroupNorm(32)
  variables = norm.init(jax.random.key(0), x)
  draw = np.random.default_rng(2)
  variables = jax.tree.map(
    lambda a: a + 0.3 * draw.standard_normal(a.shape, np.float32), variables
  )

  def run(x, kernel, convolve=conv.conv2d):
    affine = norm.apply(variables, x, method='affine')
    return convolve(x, kernel, before=affine)

  def plain(x, kernel, before):
    return conv._convolve(jax.nn.silu(before(x)), kernel)

  assert 'platform_index' in str(jax.make_jaxpr(run)(x, kernel))
  y = np.asarray(norm.apply(variables, x), np.float64)
  want = _taps(y / (1 + np.exp(-y)), kernel)
  _close(jax.jit(run)(x, kernel), want, 1e-4)
  narrow = conv.conv2d(
    x, kernel[..., :64], before=norm.apply(variables, x, method='affine')
  )
  _close(narrow, want[..., :64], 1e-4)
  loss = lambda f: lambda x, k: jnp.sum(run(x, k, f) ** 2)
  got = jax.jit(jax.grad(loss(conv.conv2d), (0, 1)))(x, kernel)
  want = jax.jit(jax.grad(loss(plain), (0, 1)))(x, kernel)
  for a, b in zip(got, want, strict=True):
    _close(a, np.asarray(b), 2e-4)


def test_single_taps_are_matmuls():
  x, kernel = _draw(0, 2, 3, 4, 5), _draw(1, 1, 1, 5, 7)
  want = np.einsum('bhwc,cd->bhwd', x, kernel[0, 0])
  np.testing.assert_allclose(conv.conv2d(x, kernel), want, atol=1e-5)
  assert 'conv_general' not in str(jax.make_jaxpr(conv.conv2d)(x, kernel))


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
