"""The losses against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.losses import (
  accuracy,
  charbonnier,
  cross_entropy,
  decibel,
  l1,
  l2,
)


def _images():
  rng = np.random.default_rng(0)
  return rng.normal(size=(2, 4, 3, 3, 1)).astype(np.float32)


@pytest.mark.parametrize(
  ('loss', 'error'),
  [
    (l1, np.abs),
    (l2, np.square),
    (charbonnier, lambda d: np.sqrt(d**2 + 1e-6)),
  ],
)
def test_reconstruction(loss, error):
  x, y = _images()
  np.testing.assert_allclose(loss(x, y), error(x - y).mean(), rtol=1e-5)
  rows = np.array([True, False, True, False])
  y[1] = np.nan  # Padding may hold anything.
  np.testing.assert_allclose(
    loss(x, y, mask=jnp.asarray(rows)), error(x - y)[rows].mean(), rtol=1e-5
  )
  low = loss(jnp.bfloat16(x), jnp.bfloat16(x))
  assert low.dtype == jnp.float32 and low < 1.1e-3
  assert loss(x, x, mask=jnp.zeros(4, bool)) == 0
  with pytest.raises(ValueError, match='Shapes differ'):
    loss(x, x[..., 0])


def test_charbonnier_has_a_gradient_at_zero():
  assert jax.grad(lambda x: charbonnier(x, x * 0))(jnp.zeros(3)).sum() == 0


@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_cross_entropy(smoothing):
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(3, 5, 7)).astype(np.float32)
  labels = rng.integers(0, 7, (3, 5))
  weight = rng.integers(0, 2, (3, 5)).astype(bool)
  log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
  target = np.eye(7)[labels] * (1 - smoothing) + smoothing / 7
  losses = -(target * log_p).sum(-1)
  np.testing.assert_allclose(
    cross_entropy(logits, labels, smoothing=smoothing),
    losses.mean(),
    rtol=1e-5,
  )
  labels = np.where(weight, labels, -1)
  logits[~weight] = np.nan
  found, grad = jax.value_and_grad(cross_entropy)(
    jnp.asarray(logits), labels, mask=weight, smoothing=smoothing
  )
  np.testing.assert_allclose(found, losses[weight].mean(), rtol=1e-5)
  assert np.isfinite(grad[weight]).all()
  assert cross_entropy(logits, labels, mask=weight & False) == 0


def test_weights_are_relative():
  logits = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
  loss = cross_entropy(logits, jnp.array([0, 0]), mask=jnp.array([0.02, 0.01]))
  np.testing.assert_allclose(loss, (2 * np.log(2) + np.log(4)) / 3, rtol=1e-5)


def test_accuracy():
  logits = jnp.eye(4)
  labels = jnp.array([0, 1, 3, 3])
  assert accuracy(logits, labels) == 0.75
  mask = jnp.array([True, True, False, False])
  assert accuracy(logits, labels, mask=mask) == 1.0


def test_bad_smoothing():
  with pytest.raises(ValueError, match=r'smoothing=1.0 is not in'):
    cross_entropy(jnp.zeros((1, 2)), jnp.zeros(1, int), smoothing=1.0)


def test_decibel_counts_ten_decibels_as_log_ten():
  x = jnp.zeros((2, 4, 4, 1))
  near, far = x + 0.1, x + 0.1 * 10**0.5
  gap = decibel(x, far, floor=0.0) - decibel(x, near, floor=0.0)
  np.testing.assert_allclose(gap, np.log(10), rtol=1e-5)
  mixed = jnp.stack([near[0], far[0]])
  kept = decibel(x, mixed, mask=jnp.array([True, False]))
  np.testing.assert_allclose(kept, np.log(0.01 + 1e-4), rtol=1e-5)
  assert np.isfinite(jax.grad(lambda y: decibel(x, y))(x)).all()
