"""What pruners leave of a tower's images: rows, probe and retrieval."""

import jax
import numpy as np

from tokpress_jax import models, report, types

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


def test_a_clip_finds_texts_by_what_is_kept():
  """Brightness is the text, so that any kept patch finds it."""
  given = images()
  spec = types.Spec(name='it', family='model', config=CONFIG)
  module = CONFIG.build()
  variables = jax.jit(module.init)(jax.random.key(0), given.test)
  model = types.Loaded(module, variables, spec)
  pooled = jax.jit(lambda m, x: m(x).pooled)
  features = lambda x: np.asarray(pooled(model, x))
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  of_class = np.stack(
    [
      features(given.train[given.train_labels == n]).mean(axis=0)
      for n in range(3)
    ]
  )
  texts = report.Texts(
    train=unit(of_class)[given.train_labels],
    test=unit(of_class)[given.test_labels],
    distinct=unit(of_class),
    which=given.test_labels,
  )
  methods = ('random', 'idpruner', 'catp')
  rows = report.measure_choosing(
    model, given, methods, shares=(0.25,), texts=texts
  )
  whole = report.recalls(unit(features(given.test)), texts)
  found = {row.method: row.recalls for row in rows}
  assert set(found) == {'all', *methods, 'smaller image'}
  assert found['all'] == whole and whole.text_at_1 > 0.5
