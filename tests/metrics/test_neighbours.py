import numpy as np
import pytest

from tokpress_jax.metrics import (
  class_spread,
  distances,
  nearest_distance,
  neighbours,
  precision_recall,
  sample_diversity,
)


def test_distances_in_blocks():
  rng = np.random.default_rng(0)
  a, b = rng.normal(size=(9, 2, 3)), rng.normal(size=(5, 2, 3))
  expected = [[np.linalg.norm(x - y) for y in b] for x in a]
  np.testing.assert_allclose(distances(a, b), expected)


def test_a_memorised_image_has_distance_zero():
  rng = np.random.default_rng(0)
  train = rng.normal(size=(50, 4, 4, 1)).astype(np.float32)
  found = nearest_distance(np.stack([train[7], train[7] + 1]), train)
  assert found[0] == 0 and 0 < found[1] <= 4


def _oracle(real, fake, k):
  def inside(point, others):
    for other in others:
      near = sorted(np.linalg.norm(other - o) for o in others)
      if np.linalg.norm(point - other) <= near[k]:
        return True
    return False

  return (
    np.mean([inside(x, real) for x in fake]),
    np.mean([inside(x, fake) for x in real]),
  )


@pytest.mark.parametrize('k', [1, 3])
def test_precision_recall_equal_the_definition(k):
  rng = np.random.default_rng(1)
  real, fake = rng.normal(size=(30, 2)), rng.normal(size=(25, 2)) * 0.5 + 0.5
  found = precision_recall(real, fake, k=k)
  assert (found.precision, found.recall) == _oracle(real, fake, k)
  assert found.precision > found.recall


@pytest.mark.parametrize('held', [1, 1000, 2**20])
def test_blocks_do_not_change_precision_and_recall(monkeypatch, held):
  """Far from zero, and with points that are there twice."""
  monkeypatch.setattr(neighbours, '_DISTANCES', held)
  rng = np.random.default_rng(2)
  real = rng.normal(size=(53, 40)) + 30
  fake = np.concatenate([real[:7], 0.8 * rng.normal(size=(41, 40)) + 30])
  between = distances(real, fake)
  radius = lambda x: np.sort(distances(x, x), axis=1)[:, 3]
  expected = (
    (between <= radius(real)[:, None]).any(0).mean(),
    (between <= radius(fake)[None]).any(1).mean(),
  )
  found = precision_recall(np.float32(real), np.float32(fake))
  assert (found.precision, found.recall) == pytest.approx(expected)
  assert 0.1 < found.recall < 0.9 and 0.1 < found.precision < 0.95


def test_collapse_keeps_precision_and_loses_recall():
  rng = np.random.default_rng(0)
  real = rng.normal(size=(200, 4))
  fake = real[:1] + 1e-3 * rng.normal(size=(200, 4))
  found = precision_recall(real, fake)
  assert found.precision == 1.0 and found.recall < 0.02
  far = precision_recall(real, fake + 100)
  assert far.precision == far.recall == 0.0


def test_diversity():
  images = np.array([[0.0], [2.0], [10.0], [16.0]])
  labels = np.array([0, 0, 1, 1])
  assert class_spread(images, labels) == (2 + 6) / 2
  np.testing.assert_allclose(
    sample_diversity(images / 2, labels, images, labels), 0.5
  )
  same = np.zeros((4, 1))
  assert sample_diversity(same, labels, images, labels) == 0


def test_errors():
  with pytest.raises(ValueError, match='more than 3 points'):
    precision_recall(np.zeros((3, 2)), np.zeros((9, 2)))
  with pytest.raises(ValueError, match='have 3 and 2 features'):
    precision_recall(np.zeros((9, 3)), np.zeros((9, 2)))
  with pytest.raises(ValueError, match='No class has two images'):
    class_spread(np.zeros((2, 2)), np.array([0, 1]))
