"""Operation counts against closed forms and against XLA's own count."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.bench import count_flops


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_batched_matmul():
  def f(x, y):
    return jnp.einsum('bnd,bmd->bnm', x, y)

  assert count_flops(f, _shape(2, 3, 5), _shape(2, 7, 5)) == 2 * 2 * 3 * 7 * 5


def test_inner_programs_are_followed():
  def f(x):
    g = jax.checkpoint(jax.jit(lambda x: x @ x))
    return jax.lax.cond(True, g, lambda x: x, x)

  assert count_flops(f, _shape(4, 4)) == 2 * 4**3


def test_scan_counts_every_trip():
  def f(x, w):
    return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

  assert count_flops(f, _shape(3, 8), _shape(5, 8, 8)) == 5 * 2 * 3 * 8 * 8


def test_static_fori_loop_counts_and_a_dynamic_one_is_refused():
  def f(n, x):
    return jax.lax.fori_loop(0, n, lambda _, x: x @ x, x)

  static = functools.partial(f, 3)
  assert count_flops(static, _shape(4, 4)) == 3 * 2 * 4**3
  with pytest.raises(ValueError, match='while'):
    count_flops(f, jax.ShapeDtypeStruct((), jnp.int32), _shape(4, 4))


@pytest.mark.parametrize('axes', [{'data'}, {'data', 'model'}])
def test_shard_map_counts_all_devices(axes):
  auto = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((4, 2), ('data', 'model'), axis_types=auto)
  spec = jax.P(tuple(sorted(axes)))
  f = jax.shard_map(
    lambda x: x @ x.T,
    mesh=mesh,
    in_specs=spec,
    out_specs=spec,
    axis_names=axes,
  )
  n = 4 * 2 if 'model' in axes else 4
  assert count_flops(f, _shape(2 * n, 6)) == n * 2 * 2 * 2 * 6


@pytest.mark.parametrize('stride', [1, 2])
def test_convolution_and_its_gradients(stride):
  def f(x, k):
    y = jax.lax.conv_general_dilated(
      x,
      k,
      (stride, stride),
      'SAME',
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )
    return (y**2).sum()

  x, k = _shape(2, 8, 8, 3), _shape(3, 3, 3, 5)
  forward = 2 * (2 * (8 // stride) ** 2 * 5) * (3 * 3 * 3)
  assert count_flops(f, x, k) == forward
  # Each of the two gradients costs as much as the forward pass.
  assert count_flops(jax.grad(f, (0, 1)), x, k) == pytest.approx(3 * forward)


def test_train_like_step_against_xla():
  """A scanned, differentiated stack equals XLA's count of the unrolled one."""
  width, layers, batch = 64, 4, 32

  def loss(w, x, unroll):
    def layer(x, w):
      return jnp.tanh(x @ w[0]) @ w[1], None

    return (jax.lax.scan(layer, x, w, unroll=unroll)[0] ** 2).mean()

  w = jnp.asarray(
    np.random.default_rng(0).normal(size=(layers, 2, width, width)) * 0.1,
    jnp.float32,
  )
  x = jnp.ones((batch, width))
  step = jax.grad(functools.partial(loss, unroll=1))
  unrolled = jax.jit(jax.grad(functools.partial(loss, unroll=True)))
  xla = unrolled.lower(w, x).compile().cost_analysis()['flops']
  # XLA also counts the tanh and the additions, about 2% here.
  np.testing.assert_allclose(count_flops(step, w, x), xla, rtol=0.06)
