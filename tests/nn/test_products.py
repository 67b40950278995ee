"""Products of few rows against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.nn import products


@pytest.mark.parametrize('shape', [(2,), (3, 5), (2, 31), (63,)])
def test_values_and_gradients(shape):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((*shape, 512), np.float32))
  module = products.Dense(512)
  variables = module.init(jax.random.key(0), x)
  kernel, bias = (variables['params'][n] for n in ('kernel', 'bias'))
  few = int(np.prod(shape)) in products._FEW
  jaxpr = str(jax.make_jaxpr(module.apply)(variables, x))
  assert ('platform_index' in jaxpr) == few
  want = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
  got = jax.jit(module.apply)(variables, x)
  assert got.shape == (*shape, 512)
  np.testing.assert_allclose(got, want + np.asarray(bias), atol=2e-5)
  loss = lambda v, x: jnp.sum(module.apply(v, x) ** 2)
  got = jax.jit(jax.grad(loss, (0, 1)))(variables, x)
  want = 2 * (want + np.asarray(bias, np.float64))
  np.testing.assert_allclose(got[1], want @ np.asarray(kernel).T, atol=1e-4)
  got, want = got[0]['params']['kernel'], want.reshape(-1, 512)
  np.testing.assert_allclose(
    got, np.asarray(x).reshape(-1, 512).T @ want, atol=1e-3
  )


def test_a_stack_of_kernels():
  """Under vmap, as the modulation of stacked layers is."""
  rng = np.random.default_rng(0)
  kernels = jnp.asarray(rng.standard_normal((3, 512, 512), np.float32))
  x = jnp.asarray(rng.standard_normal((4, 512), np.float32))
  dimensions = (((1,), (0,)), ((), ()))
  one = lambda kernel: products.dot_general(x, kernel, dimensions)
  got = jax.jit(jax.vmap(one))(kernels)
  np.testing.assert_allclose(got, np.asarray(x) @ kernels, atol=1e-3)


def test_small_and_half_precision_products_are_plain():
  trace = lambda rows, inner, dtype: str(
    jax.make_jaxpr(products.Dense(512, dtype=dtype).init)(
      jax.random.key(0), jnp.ones((rows, inner))
    )
  )
  assert 'platform_index' in trace(4, 512, jnp.float32)
  assert 'platform_index' not in trace(1, 512, jnp.float32)
  assert 'platform_index' not in trace(4, 256, jnp.float32)
  assert 'platform_index' not in trace(4, 512, jnp.bfloat16)
