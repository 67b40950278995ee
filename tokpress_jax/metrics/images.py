"""PSNR and SSIM of single images.

Dimensions: B batch, H W rows and columns, C channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def psnr(x: Array, y: Array, *, peak: float = 1.0) -> Array:
  """Peak signal-to-noise ratio, 10 log10(peak^2 / mse), in dB.

  The mean over a test set of per-image values, which the field reports, is
  not the value of the mean error: say which one a number is.

  Args:
    x: [B, H, W, C].
    y: of the same shape.
    peak: the range of the values: 1 for [0, 1], 2 for [-1, 1], 255 for uint8.

  Returns:
    float32 [B], at most 100 (equal images would be infinite).
  """
  x, y = _pair(x, y)
  mse = jnp.mean(jnp.square((x - y) / peak), axis=(1, 2, 3))
  return -10 * jnp.log10(jnp.maximum(mse, 1e-10))


def ssim(x: Array, y: Array, *, peak: float = 1.0, window: int = 11) -> Array:
  """Structural similarity with a Gaussian window.

  Wang et al., "Image Quality Assessment: From Error Visibility to Structural
  Similarity" (2004), eq. 13, K1 = 0.01, K2 = 0.03; the mean over all windows
  that lie inside the image and over channels. The standard window is 11 with
  a standard deviation of 1.5; a smaller one scales it, and its values are
  comparable only among themselves (use 7 for 8x8 images, and say so).

  Args:
    x: [B, H, W, C].
    y: of the same shape.
    peak: the range of the values.
    window: odd, at most H and W.

  Returns:
    float32 [B].

  Raises:
    ValueError: if the window does not fit.
  """
  x, y = _pair(x, y)
  height, width = x.shape[1:3]
  if window % 2 == 0 or not 1 <= window <= min(height, width):
    raise ValueError(
      f'window={window} must be odd and fit into {height}x{width} images; '
      'for small ones use a smaller window, such as 7 for 8x8.'
    )
  rows, columns = _window(height, window), _window(width, window)

  def blur(z):
    return jnp.einsum(
      'ph,qw,bhwc->bpqc',
      rows,
      columns,
      z,
      precision=jax.lax.Precision.HIGHEST,
    )

  mean_x, mean_y = blur(x), blur(y)
  variance_x = blur(x * x) - mean_x**2
  variance_y = blur(y * y) - mean_y**2
  covariance = blur(x * y) - mean_x * mean_y
  c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
  value = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
    (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
  )
  return jnp.mean(value, axis=(1, 2, 3))


@functools.cache
def _window(size: int, window: int) -> np.ndarray:
  """A Gaussian at every place where it fits, [size - window + 1, size]."""
  offsets = np.arange(window) - window // 2
  kernel = np.exp(-0.5 * (offsets / (1.5 * window / 11)) ** 2)
  kernel /= kernel.sum()
  matrix = np.zeros((size - window + 1, size), np.float32)
  for i, row in enumerate(matrix):
    row[i : i + window] = kernel
  return matrix


def _pair(x: Array, y: Array) -> tuple[Array, Array]:
  if x.ndim != 4 or x.shape != y.shape:
    raise ValueError(
      f'Expected two [B, H, W, C] of one shape; got {x.shape} and {y.shape}.'
    )
  return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)
