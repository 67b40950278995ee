import numpy as np

from tokpress_jax.metrics import fit_kmeans, fit_scales, scale_codes
from tokpress_jax.metrics.kmeans import nearest_centre


def test_a_collapsed_scale_shows_beside_kmeans():
  rng = np.random.default_rng(0)
  centres = 10 * rng.normal(size=(6, 3))
  label = rng.integers(6, size=(50, 2, 2))
  x = np.float32(centres[label] + 0.1 * rng.normal(size=(50, 2, 2, 3)))
  residuals = [x, x[:, :1, :1]]
  even, collapsed = scale_codes(
    residuals,
    [label.reshape(50, 4), np.zeros((50, 1), int)],
    fit_scales(residuals, size=6),
  )
  p = np.bincount(label.ravel()) / 200
  assert (even.grid, even.vectors) == ((2, 2), 200)
  np.testing.assert_allclose(even.perplexity, np.exp(-(p * np.log(p)).sum()))
  np.testing.assert_allclose(even.ratio, 1)  # k-means finds the same cells
  assert even.kmeans_error < 0.1 < 10 < even.energy
  assert (collapsed.grid, collapsed.perplexity) == ((1, 1), 1)
  assert 1 / 6 <= collapsed.ratio < 0.25


def test_limits():
  rng = np.random.default_rng(0)
  x = np.float32(rng.normal(size=(40, 1, 1, 2)))
  codes = rng.integers(8, size=(40, 1))
  (few,) = scale_codes([x], [codes], fit_scales([x], size=64))
  # Fewer vectors than codes: k-means gives each its own.
  np.testing.assert_allclose(few.kmeans, 40)
  centres = fit_scales([x], size=4, limit=20, seed=3)
  (some,) = scale_codes([x], [codes], centres, limit=20, seed=3)
  assert some.vectors == 20
  taken = np.random.default_rng(3).permutation(40)[:20]
  picked = x[taken, 0, 0]
  cells = nearest_centre(picked, fit_kmeans(picked, size=4, seed=3))
  for values, found in (
    (codes[taken, 0], some.perplexity),
    (cells, some.kmeans),
  ):
    p = np.bincount(values)[np.bincount(values) > 0] / 20
    np.testing.assert_allclose(found, np.exp(-(p * np.log(p)).sum()))
