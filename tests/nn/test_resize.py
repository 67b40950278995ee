"""The matrices against hand-made numbers and against PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.nn.resize import METHODS, resize, resize_matrix


def test_area_bins_overlap_where_sizes_do_not_divide():
  third = 1 / 3
  np.testing.assert_allclose(
    resize_matrix(5, 3, 'area'),
    [
      [0.5, 0.5, 0, 0, 0],
      [0, third, third, third, 0],
      [0, 0, 0, 0.5, 0.5],
    ],
    atol=1e-7,
  )


def test_bicubic_by_hand():
  # Doubling puts samples a quarter of a cell from the nearest centre: the
  # kernel with a = -0.75 at distances 1.25, 0.25, 0.75 and 1.75.
  kernel = [-0.10546875, 0.87890625, 0.26171875, -0.03515625]
  matrix = resize_matrix(8, 16, 'bicubic')
  np.testing.assert_allclose(matrix[7, 2:6], kernel, atol=1e-7)
  np.testing.assert_allclose(matrix[8, 2:6], kernel[::-1], atol=1e-7)
  # At the border the two outermost taps fall on the first cell.
  np.testing.assert_allclose(
    matrix[0, :2], [sum(kernel[i] for i in (3, 2, 1)), kernel[0]], atol=1e-7
  )


def test_bilinear_and_nearest_by_hand():
  np.testing.assert_allclose(
    resize_matrix(2, 4, 'bilinear'),
    [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]],
  )
  np.testing.assert_array_equal(
    resize_matrix(4, 3, 'nearest').argmax(1), [0, 1, 2]
  )


@pytest.mark.parametrize('method', METHODS)
def test_resize_keeps_constants_dtype_and_separates_axes(method):
  x = jnp.full((2, 3, 5, 4), 2.5, jnp.bfloat16)
  y = resize(x, (7, 2), method=method)
  assert y.shape == (2, 7, 2, 4) and y.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(y), 2.5)
  assert resize(x, (3, 5), method=method) is x
  row = jax.random.normal(jax.random.key(0), (1, 3, 5, 1))
  both = resize(row, (7, 2), method=method)
  one = resize(resize(row, (7, 5), method=method), (7, 2), method=method)
  np.testing.assert_allclose(both, one, atol=1e-6)


def test_bad_arguments():
  with pytest.raises(ValueError, match="method='lanczos' is not one of"):
    resize_matrix(4, 2, 'lanczos')
  with pytest.raises(ValueError, match='at least 1; got 4 -> 0'):
    resize_matrix(4, 0, 'area')


@pytest.mark.parity
@pytest.mark.parametrize('method', METHODS)
def test_equals_torch_interpolate(method):
  torch = pytest.importorskip('torch')
  x = np.random.default_rng(0).normal(size=(2, 16, 12, 3)).astype(np.float32)
  for size in [(1, 1), (2, 5), (7, 9), (13, 8), (16, 16), (24, 33)]:
    options = {} if method in ('area', 'nearest') else {'align_corners': False}
    smooth = method == 'antialiased'
    expected = torch.nn.functional.interpolate(
      torch.from_numpy(x).permute(0, 3, 1, 2),
      size=size,
      mode='bilinear' if smooth else method,
      antialias=smooth,
      **options,
    ).permute(0, 2, 3, 1)
    y = resize(jnp.asarray(x), size, method=method)
    np.testing.assert_allclose(y, expected, atol=5e-6)
