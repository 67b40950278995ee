"""What pruners leave of a tower's images: rows, probe and retrieval."""

import dataclasses

import jax
import numpy as np
import pytest

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
  assert {key: row.kept for key, row in found.items()} == {
    key: key[1] for key in found
  }
  assert whole.error < found['random', 8].error < found['random', 4].error
  assert found['divprune', 4].diversity > found['random', 4].diversity
  # Brightness is in every token, so that any of them tells the class.
  assert all(row.probe == 1 for row in rows)


def test_methods_that_leave_about_as_many():
  module = CONFIG.build()
  variables = jax.jit(module.init)(jax.random.key(0), images().test)
  spec = types.Spec(name='it', family='model', config=CONFIG)
  model = types.Loaded(module, variables, spec)
  names = ('aim', 'mustdrop', 'prumerge_plus')
  rows = report.measure_choosing(model, images(), names, shares=(0.25,))
  kept = {row.method: row.kept for row in rows if row.method in names}
  assert kept['aim'] == 4  # 16 tokens, halved twice.
  assert 1 <= kept['mustdrop'] <= 4  # Windows of 3 x 3: at most 2 x 2 of them.
  assert 1 < kept['prumerge_plus'] <= 4


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


def row(method, tokens, probe, image_at_1=None):
  recalls = None
  if image_at_1 is not None:
    recalls = report.Recalls(
      text_at_1=0, text_at_5=0, image_at_1=image_at_1, image_at_5=1
    )
  return report.ChoosingRow(
    method=method,
    tokens=tokens,
    kept=tokens,
    coverage=1,
    diversity=0,
    error=0,
    probe=probe,
    recalls=recalls,
  )


ROWS = [
  row('all', 16, 1.0, 1.0),
  row('good', 8, 0.75, 0.25),
  row('good', 4, 0.5, 0.25),
  row('bad', 8, 0.25, 0.5),
  row('random', 8, 0.5, 0.25),
  row('random', 4, 0.375, 0.5),
  row('smaller image', 9, 0.1, 0.1),
]


def test_the_figure_shows_differences_to_random():
  figure = report.choosing_figure(ROWS, images=8)
  probe, retrieval = figure.axes
  assert probe.get_title('left') == 'linear probe'
  of = lambda axes: [label.get_text() for label in axes.get_yticklabels()]
  # The best is at the top; what random was not measured at is left out.
  assert of(probe) == ['bad', 'good']
  assert of(retrieval) == ['good', 'bad']
  dots = sorted(
    (y, x)
    for dot in probe.collections
    for x, y in np.asarray(dot.get_offsets())
  )
  assert dots == [(0, -0.25), (1, 0.125), (1, 0.25)]
  band = probe.patches[0].get_bbox()
  np.testing.assert_allclose(band.x1, 0.25)  # (2 x 0.5 x 0.5 / 8) ** 0.5


def test_what_leaves_more_than_its_budget_is_not_compared():
  more = dataclasses.replace(ROWS[1], method='more', kept=8.5)
  axes = report.choosing_figure([*ROWS, more], images=8).axes[0]
  assert [x.get_text() for x in axes.get_yticklabels()] == ['bad', 'good']


def test_without_texts_there_is_one_panel():
  rows = [dataclasses.replace(row, recalls=None) for row in ROWS]
  assert len(report.choosing_figure(rows, images=8).axes) == 1


def test_a_figure_without_random_is_refused():
  rows = [row for row in ROWS if row.method != 'random']
  with pytest.raises(ValueError, match="add 'random' to the methods"):
    report.choosing_figure(rows, images=8)
