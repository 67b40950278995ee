"""The Gaussian bottleneck against its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import quantize
from tokpress_jax.errors import UserError

B, N, D = 4, 5, 3
RNG = np.random.default_rng(0)
Z = (2 * RNG.normal(size=(B, N, 2 * D))).astype(np.float32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0] * 5, [1, 0, 1, 0, 1]])
KEY = jax.random.key(0)


def kl_of(mean, log_variance, samples=400_000):
  """log N(x; mean, variance) - log N(x; 0, 1), a mean over draws x."""
  deviation = np.exp(log_variance / 2)
  noise = np.random.default_rng(1).normal(size=samples)
  x = mean + deviation * noise
  return np.mean(-np.log(deviation) - noise**2 / 2 + x**2 / 2)


def test_divergence_is_that_of_its_definition():
  mean, log_variance = np.array([0.5, -1.0, 0.0]), np.array([-1.0, 0.5, 0.0])
  want = sum(kl_of(m, v) for m, v in zip(mean, log_variance, strict=True))
  found = quantize.gaussian(
    jnp.concatenate([mean, log_variance])[None, None], kl_weight=1.0
  )
  np.testing.assert_allclose(found.loss, want, rtol=2e-2)
  normal = quantize.gaussian(jnp.zeros((2, 1, 2)), kl_weight=1.0)
  assert normal.loss == 0


def test_the_mode_is_the_mean_and_there_are_no_codes():
  found = quantize.gaussian(Z)
  assert found.codes is None and found.stats is None
  np.testing.assert_array_equal(found.embeddings, Z[..., :D])


def test_draws_have_the_mean_and_the_deviation():
  z = jnp.tile(jnp.array([[1.0, -2.0, np.log(0.25), np.log(4.0)]]), (20_000, 1))
  drawn = quantize.gaussian(z, rng=KEY).embeddings
  np.testing.assert_allclose(drawn.mean(axis=0), [1, -2], atol=0.05)
  np.testing.assert_allclose(drawn.std(axis=0), [0.5, 2], rtol=0.03)
  again = quantize.gaussian(z, rng=KEY).embeddings
  np.testing.assert_array_equal(drawn, again)
  other = quantize.gaussian(z, rng=jax.random.key(1)).embeddings
  assert np.abs(drawn - other).max() > 1


def test_variances_are_clamped():
  z = jnp.array([[[0.0, 99.0]], [[0.0, -99.0]]])
  found = quantize.gaussian(z, rng=KEY, kl_weight=1.0)
  assert np.isfinite(found.loss) and np.isfinite(found.embeddings).all()
  want = 0.5 * np.mean([np.exp(20.0) - 21, np.exp(-30.0) + 29])
  np.testing.assert_allclose(found.loss, want, rtol=1e-5)


def test_padding_does_not_count():
  mask = MASK.astype(bool)
  junk = np.where(mask[..., None], Z, np.nan)
  found = quantize.gaussian(junk, mask=mask, rng=KEY, kl_weight=1.0)
  mean, log_variance = np.split(np.float64(Z), 2, axis=-1)
  kl = 0.5 * (mean**2 + np.exp(log_variance) - 1 - log_variance).sum(-1)
  each = (kl * mask).sum(axis=1)[[0, 1, 3]]  # The third image is padding.
  np.testing.assert_allclose(found.loss, each.mean(), rtol=1e-5)
  assert not np.any(np.where(mask[..., None], 0, found.embeddings))
  whole = quantize.gaussian(Z, rng=KEY).embeddings
  np.testing.assert_array_equal(
    found.embeddings, np.where(mask[..., None], whole, 0)
  )


def test_gradients_reach_means_and_variances():
  module = quantize.GaussianConfig(dim=D, kl_weight=0.1).build()

  @jax.jit
  @jax.grad
  def grad(z):
    found = module.apply({}, z, rng=KEY)
    return jnp.sum(found.embeddings**3) + found.loss

  found = np.asarray(grad(jnp.asarray(Z)))
  assert np.isfinite(found).all() and (found != 0).all()


def test_bfloat16_keeps_its_dtype():
  found = quantize.gaussian(jnp.asarray(Z, jnp.bfloat16), rng=KEY)
  assert found.embeddings.dtype == jnp.bfloat16
  assert found.loss.dtype == jnp.float32 and np.isfinite(found.loss)


def test_what_cannot_be_is_refused():
  config = quantize.GaussianConfig(dim=D)
  assert config.input_dim == 2 * D and quantize.VQConfig(dim=5).input_dim == 5
  with pytest.raises(ValueError, match=r'\[\.\.\., 6\].*got \(4, 5, 3\)'):
    config.build().apply({}, jnp.asarray(Z[..., :D]))
  with pytest.raises(ValueError, match=r'got \(4, 5\)'):
    quantize.gaussian(jnp.asarray(Z[..., 0]))
  with pytest.raises(ValueError, match='dim >= 1; got 0'):
    quantize.GaussianConfig(dim=0)
  for name in ('num_codes', 'codebook_size'):
    with pytest.raises(UserError, match='continuous'):
      getattr(config, name)
