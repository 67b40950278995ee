"""The Fréchet distance against SciPy and a closed form."""

import numpy as np
import pytest

from tokpress_jax.metrics import FeatureStats, Moments, frechet_distance


def _features(n, dim=12, seed=0, offset=0.0):
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(dim, dim))
  return rng.normal(size=(n, dim)) @ mix + offset


def test_a_set_has_no_distance_from_itself():
  stats = FeatureStats.of(_features(100))
  assert frechet_distance(stats, stats) < 1e-9
  singular = FeatureStats.of(_features(5))  # Fewer samples than features.
  assert frechet_distance(singular, singular) < 1e-6


def test_equals_scipy():
  linalg = pytest.importorskip('scipy.linalg')
  x, y = _features(400, seed=1), _features(300, seed=2, offset=0.5)
  c1, c2 = np.cov(x.T), np.cov(y.T)
  root = linalg.sqrtm(c1 @ c2).real
  expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)
  a, b = FeatureStats.of(x), FeatureStats.of(y)
  np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
  np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-6)


def test_moments_of_a_file_are_as_good_as_samples():
  x, y = _features(40, seed=1), _features(30, seed=2, offset=0.5)
  a, b = FeatureStats.of(x), FeatureStats.of(y)
  given = Moments(y.mean(0), np.cov(y.T))
  expected = frechet_distance(a, b)
  np.testing.assert_allclose(frechet_distance(a, given), expected)
  np.testing.assert_allclose(frechet_distance(given, a), expected)
  with pytest.raises(ValueError, match=r'covariance \[D, D\]; got \(12,\)'):
    Moments(y.mean(0), np.cov(y))


def test_one_dimension_in_closed_form():
  a = FeatureStats.of(np.array([[0.0], [2.0]]))  # Mean 1, variance 2.
  b = FeatureStats.of(np.array([[3.0], [7.0]]))  # Mean 5, variance 8.
  expected = 16 + (np.sqrt(2) - np.sqrt(8)) ** 2
  np.testing.assert_allclose(frechet_distance(a, b), expected)


def test_streaming_equals_one_batch_even_far_from_zero():
  x = _features(500, offset=1e6).astype(np.float32)
  whole = FeatureStats.of(x)
  parts = [FeatureStats.of(p) for p in np.array_split(x, [1, 7, 200])]
  total = parts[0] + parts[1] + parts[2] + parts[3]
  np.testing.assert_allclose(total.mean, whole.mean, rtol=1e-12)
  np.testing.assert_allclose(total.covariance, np.cov(np.float64(x).T))
  assert total.count == 500


def test_errors():
  with pytest.raises(ValueError, match=r'Expected features \[N, D\]'):
    FeatureStats.of(np.zeros(3))
  one = FeatureStats.of(np.zeros((1, 3)))
  with pytest.raises(ValueError, match='at least 2 samples'):
    frechet_distance(one, one)
  with pytest.raises(ValueError, match='have 3 and 2 features'):
    frechet_distance(one, FeatureStats.of(np.zeros((4, 2))))
