"""Residual codes against a loop, and quantiser drop-out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.quantize import (
  ResidualVQConfig,
  VQConfig,
  residual_vq,
  sample_keep,
)


def _data():
  rng = np.random.default_rng(0)
  z = rng.normal(size=(6, 10, 4)).astype(np.float32)
  scale = np.array([1.0, 0.5, 0.25])[:, None, None]
  return z, (scale * rng.normal(size=(3, 16, 4))).astype(np.float32)


def test_matches_numpy():
  z, codebooks = _data()
  out = jax.jit(residual_vq)(z, codebooks)
  rest, losses = np.float64(z), []
  for q, codebook in enumerate(np.float64(codebooks)):
    square = ((rest[..., None, :] - codebook) ** 2).sum(-1)
    codes = square.argmin(-1)
    np.testing.assert_array_equal(out.codes[..., q], codes)
    rest = rest - codebook[codes]
    losses.append((rest**2).mean())
  np.testing.assert_allclose(out.embeddings, z - rest, atol=1e-5)
  np.testing.assert_allclose(
    out.losses['commitment'], 0.25 * np.mean(losses), rtol=1e-5
  )


def test_dropped_codebooks_neither_add_nor_learn():
  z, codebooks = _data()
  keep = jnp.array([0, 1, 2, 3, 3, 1])
  out = jax.jit(residual_vq)(z, codebooks, keep=keep)
  for row, k in enumerate(keep.tolist()):
    if k == 0:
      assert not out.embeddings[row].any()
      continue
    alone = jax.jit(residual_vq)(z[row : row + 1], codebooks[:k])
    np.testing.assert_allclose(
      out.embeddings[row], alone.embeddings[0], atol=1e-6
    )
    assert not out.codes[row, :, k:].any()
  np.testing.assert_array_equal(out.stats.count.sum(1), [50, 30, 20])
  module = ResidualVQConfig(
    vq=VQConfig(codebook_size=16, dim=4), num_quantizers=3
  ).build()
  found = module.apply(
    {'params': {'codebook': jnp.asarray(codebooks)}},
    out.codes,
    keep=keep,
    method='lookup',
  )
  np.testing.assert_allclose(found, out.embeddings, atol=1e-6)


def test_each_codebook_updates_by_its_own_statistics():
  z, _ = _data()
  config = ResidualVQConfig(
    vq=VQConfig(codebook_size=8, dim=4, learning='ema', decay=0.8),
    num_quantizers=2,
  )
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), z)

  @jax.jit
  def step(variables, rng):
    out = module.apply(variables, z)
    return config.update(variables, out.stats, rng=rng), out.loss

  losses = []
  for i in range(30):
    variables, loss = step(variables, jax.random.key(i))
    losses.append(float(loss))
  assert losses[-1] < 0.6 * losses[0]


def test_sample_keep_is_uniform():
  keep = sample_keep(jax.random.key(0), 6000, most=4, least=2)
  values, counts = np.unique(keep, return_counts=True)
  np.testing.assert_array_equal(values, [2, 3, 4])
  assert counts.min() > 1800


def test_cosine_is_refused():
  with pytest.raises(ValueError, match='residuals have no unit length'):
    ResidualVQConfig(vq=VQConfig(distance='cosine'))
