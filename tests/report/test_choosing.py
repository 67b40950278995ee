"""What is left of a tower's output, against sums by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import models, report, types
from tokpress_jax.report import keeping

CONFIG = models.ViTConfig(
  image_size=8, patch=2, channels=1, width=16, depth=2, heads=2, classes=3
)


def images():
  """Squares of three brightnesses, a class each, with some noise."""
  rng = np.random.default_rng(0)
  labels = np.arange(24, dtype=np.int32) % 3
  pixels = (
    labels[:, None, None, None] - 1 + 0.1 * rng.normal(size=(24, 8, 8, 1))
  )
  pixels = pixels.astype(np.float32)
  return report.ImageSet(
    info=None,
    train=pixels,
    train_labels=labels,
    test=pixels[:6],
    test_labels=labels[:6],
  )


def test_rows_of_all_methods_and_shares():
  module = CONFIG.build()
  variables = jax.jit(module.init)(jax.random.key(0), images().test)
  spec = types.Spec(name='it', family='model', config=CONFIG)
  model = types.Loaded(module, variables, spec)
  rows = report.measure_choosing(
    model, images(), ('divprune', 'vtc_cls', 'random'), shares=(0.5, 0.25)
  )
  found = {(row.method, row.tokens): row for row in rows}
  assert set(found) == {
    ('all', 16),
    *((name, k) for name in ('divprune', 'vtc_cls', 'random') for k in (8, 4)),
    ('smaller image', 4),
  }
  whole = found['all', 16]
  np.testing.assert_allclose(whole.coverage, 1, atol=1e-5)
  assert whole.error < found['random', 8].error < found['random', 4].error
  assert found['divprune', 4].diversity > found['random', 4].diversity
  # Brightness is in every token, so that any of them tells the class.
  assert all(row.probe == 1 for row in rows)


def test_measures_are_those_of_a_loop():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 6, 4)).astype(np.float32)
  tokens = types.Tokens.create(jnp.asarray(x))
  kept = dataclasses.replace(
    types.Tokens.create(jnp.asarray(x[:, [1, 4, 0]])),
    valid=jnp.array([[True, True, False]]),
  )
  unit = x[0] / np.linalg.norm(x[0], axis=1, keepdims=True)
  cos = unit @ unit[[1, 4]].T
  weight = np.exp(20 * cos) / np.exp(20 * cos).sum(axis=1, keepdims=True)
  error = np.square(x[0] - weight @ x[0, [1, 4]]).sum()
  want = (
    cos.max(axis=1).mean(),
    1 - unit[1] @ unit[4],
    error / np.square(x[0] - x[0].mean(axis=0)).sum(),
  )
  got = keeping.measures(tokens, kept)
  np.testing.assert_allclose(np.ravel(got), want, rtol=1e-4)
