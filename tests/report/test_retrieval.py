"""Recalls against ranks counted by hand."""

import numpy as np

from tokpress_jax import report


def test_recalls_are_ranks_by_hand():
  """Texts that repeat are candidates once, and any of their images is right."""
  rng = np.random.default_rng(0)
  unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)
  distinct = unit(rng.normal(size=(9, 5)))
  which = rng.integers(0, 9, 30)
  which[:9] = np.arange(9)
  images = unit(distinct[which] + 0.7 * rng.normal(size=(30, 5)))
  texts = report.Texts(
    train=distinct, test=distinct[which], distinct=distinct, which=which
  )
  found = report.recalls(images, texts)
  cosines = images @ distinct.T
  for k, text, image in (
    (1, found.text_at_1, found.image_at_1),
    (5, found.text_at_5, found.image_at_5),
  ):
    right = [which[i] in np.argsort(-cosines[i])[:k] for i in range(30)]
    assert text == np.mean(right)
    near = [np.argsort(-cosines[:, j])[:k] for j in range(9)]
    assert image == np.mean([j in which[near[j]] for j in range(9)])
  assert 0 < found.text_at_1 < found.text_at_5 <= 1
