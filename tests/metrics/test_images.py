"""PSNR and SSIM against scikit-image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.metrics import psnr, ssim

PSNR, SSIM = jax.jit(psnr, static_argnames='peak'), ssim


def _pair(size, channels=3):
  rng = np.random.default_rng(0)
  x = rng.uniform(size=(3, *size, channels)).astype(np.float32)
  noise = (
    rng.normal(size=x.shape) * np.array([0.02, 0.1, 0.4])[:, None, None, None]
  )
  return x, np.clip(x + noise, 0, 1).astype(np.float32)


@pytest.mark.parametrize('peak', [1.0, 2.0])
def test_psnr(peak):
  skimage = pytest.importorskip('skimage.metrics')
  x, y = _pair((8, 8), 1)
  found = PSNR(x, y, peak=peak)
  for i in range(3):
    expected = skimage.peak_signal_noise_ratio(x[i], y[i], data_range=peak)
    np.testing.assert_allclose(found[i], expected, rtol=1e-5)
  assert PSNR(x, x)[0] == 100


@pytest.mark.parametrize(
  ('size', 'window'), [((24, 17), 11), ((11, 11), 11), ((8, 8), 7)]
)
def test_ssim(size, window):
  skimage = pytest.importorskip('skimage.metrics')
  x, y = _pair(size)
  found = jax.jit(SSIM, static_argnames='window')(x, y, window=window)
  for i in range(3):
    expected = skimage.structural_similarity(
      np.float64(x[i]),
      np.float64(y[i]),
      data_range=1,
      channel_axis=-1,
      gaussian_weights=True,
      sigma=1.5 * window / 11,
      use_sample_covariance=False,
    )
    np.testing.assert_allclose(found[i], expected, atol=1e-5)
  np.testing.assert_allclose(ssim(x, x, window=window), 1.0, rtol=1e-6)


def test_range_of_values_does_not_matter():
  x, y = _pair((12, 12))
  wide = ssim(255 * x, 255 * y, peak=255.0)
  np.testing.assert_allclose(wide, ssim(x, y), atol=1e-5)
  np.testing.assert_allclose(
    psnr(2 * x - 1, 2 * y - 1, peak=2.0), psnr(x, y), rtol=1e-4
  )


def test_bad_arguments():
  x = jnp.zeros((1, 8, 8, 1))
  with pytest.raises(ValueError, match='window=11 must be odd and fit'):
    ssim(x, x)
  with pytest.raises(ValueError, match='one shape'):
    psnr(x, x[..., 0])
