import numpy as np
import pytest

from tokpress_jax.metrics import fit_kmeans, patch_coding


def test_finds_separate_clusters():
  rng = np.random.default_rng(0)
  centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]], np.float32)
  x = (centres[:, None] + 0.1 * rng.normal(size=(4, 50, 2))).reshape(-1, 2)
  found = fit_kmeans(np.float32(x), size=4)
  order = np.lexsort(np.round(found.T))
  np.testing.assert_allclose(found[order], centres, atol=0.1)
  np.testing.assert_array_equal(found, fit_kmeans(np.float32(x), size=4))


def test_equals_scikit_learn_from_the_same_start():
  cluster = pytest.importorskip('sklearn.cluster')
  x = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
  start = fit_kmeans(x, size=5, steps=0)
  theirs = cluster.KMeans(5, init=start, n_init=1, max_iter=20, tol=0).fit(x)
  np.testing.assert_allclose(
    fit_kmeans(x, size=5, steps=20), theirs.cluster_centers_, atol=1e-4
  )


def test_more_bits_give_more_quality_within_the_budget():
  rng = np.random.default_rng(0)
  low = rng.uniform(size=(80, 2, 2, 1))  # Smooth: blocks of 2x2 pixels.
  images = np.kron(low, np.ones((1, 2, 2, 1)))
  images = images + 0.01 * rng.normal(size=images.shape)
  points = [
    patch_coding(images[:60], images[60:], bits=bits) for bits in (4, 8, 16)
  ]
  quality = [p.psnr for p in points]
  assert quality[0] < quality[1] < quality[2]
  assert [p.bits for p in points] == [4, 8, 16]
  assert points[2].patch == (2, 2) and points[2].codebook_size == 16
  with pytest.raises(ValueError, match='bits=0 per image'):
    patch_coding(images, images, bits=0)
