"""Norms against NumPy, and their float32 statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn

X = np.random.default_rng(0).normal(3, 2, size=(2, 3, 8)).astype(np.float32)


def oracle(kind, x, eps):
  x = np.float64(x)
  if kind == 'layer':
    x = x - x.mean(axis=-1, keepdims=True)
  return x / np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + eps)


@pytest.mark.parametrize('kind', ['layer', 'rms'])
@pytest.mark.parametrize('affine', [True, False])
def test_norm_equals_oracle(kind, affine):
  module = nn.make_norm(kind, eps=0.1, affine=affine, dtype=jnp.float32)
  variables = module.init(jax.random.key(0), X)
  want = oracle(kind, X, 0.1)
  if affine:
    draws = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)
    names = ('scale', 'bias') if kind == 'layer' else ('scale',)
    assert set(variables['params']) == set(names)
    params = dict(zip(names, draws, strict=False))
    variables = {'params': params}
    want = want * params['scale'] + params.get('bias', 0)
  else:
    assert not variables
  np.testing.assert_allclose(module.apply(variables, X), want, atol=1e-5)


@pytest.mark.parametrize('kind', ['layer', 'rms'])
def test_statistics_are_float32_whatever_the_input(kind):
  """In bfloat16 the mean of 1,000 and the variance around it would be lost."""
  x = jnp.asarray(X + 1000, jnp.bfloat16)
  module = nn.make_norm(kind, eps=1e-6, affine=False, dtype=jnp.bfloat16)
  got = module.apply({}, x)
  assert got.dtype == jnp.bfloat16
  want = oracle(kind, np.asarray(x, np.float64), 1e-6)
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.02)


def test_unknown_norm_is_refused():
  with pytest.raises(ValueError, match=r"'batch'; try one of \['layer', 'rms'"):
    nn.make_norm('batch', eps=1e-6, affine=True, dtype=jnp.float32)


def test_unit_length():
  got = nn.l2_normalize(X, axis=1)
  want = X / np.linalg.norm(X, axis=1, keepdims=True)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  low = nn.l2_normalize(jnp.asarray(300 * X, jnp.bfloat16))
  assert low.dtype == jnp.bfloat16
  length = np.linalg.norm(np.asarray(low, np.float64), axis=-1)
  np.testing.assert_allclose(length, 1, atol=0.01)


def test_unit_length_of_zero_is_zero_with_a_finite_gradient():
  loss = lambda x: jnp.sum(nn.l2_normalize(x) * jnp.arange(4.0))
  value, grad = jax.value_and_grad(loss)(jnp.zeros(4))
  assert value == 0 and np.isfinite(grad).all()


def test_modulation_starts_from_the_identity():
  np.testing.assert_array_equal(nn.modulate(X, 0, 0), X)
  np.testing.assert_allclose(nn.modulate(X, 0.5, 2), X * 1.5 + 2, rtol=1e-6)
