"""Resizing of grids as two small matrix products.

The matrices are constants, one per axis, so that a resize is two matmuls at
static shapes: exact, differentiable, and fast on matrix units. They follow
PyTorch's `interpolate` (align_corners False) because released weights were
trained with it; `jax.image.resize` differs from it
(bicubic uses a = -0.5 rather than -0.75; there is no `area`).

Dimensions: B batch, H W rows and columns, C channels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

METHODS = ('antialiased', 'area', 'bicubic', 'bilinear', 'nearest')
_CUBIC = -0.75


@functools.cache
def resize_matrix(size: int, new_size: int, method: str) -> np.ndarray:
  """The matrix that resizes one axis.

  Args:
    size: length of the axis.
    new_size: length afterwards.
    method: 'antialiased' (bilinear, with a triangle as wide as a new cell
      where there are fewer of them), 'area' (the mean over bins floor(i n / m)
      .. ceil((i + 1) n / m), which overlap where m does not divide n),
      'bicubic', 'bilinear' or 'nearest'.

  Returns:
    float32 [new_size, size], rows summing to 1; read-only.

  Raises:
    ValueError: if the method is unknown or a size is below 1.
  """
  if method not in METHODS:
    raise ValueError(f'method={method!r} is not one of {METHODS}.')
  if size < 1 or new_size < 1:
    raise ValueError(f'Sizes must be at least 1; got {size} -> {new_size}.')
  matrix = np.zeros((new_size, size))
  for i in range(new_size):
    if method == 'area':
      start = i * size // new_size
      stop = -(-(i + 1) * size // new_size)
      matrix[i, start:stop] = 1 / (stop - start)
    elif method == 'nearest':
      matrix[i, i * size // new_size] = 1
    elif method == 'antialiased':
      wide = max(size / new_size, 1.0)
      centre = (i + 0.5) * size / new_size - 0.5
      row = [_triangle(abs(centre - j) / wide) for j in range(size)]
      matrix[i] = np.divide(row, sum(row))  # Beyond the edge is nothing.
    else:
      # In float32, as PyTorch does: half an ulp of a position is 1e-6 here.
      scale = np.float32(size) / np.float32(new_size)
      centre = float(scale * np.float32(i + 0.5) - np.float32(0.5))
      if method == 'bilinear':
        centre = max(centre, 0.0)
      base = int(np.floor(centre))
      reach = (-1, 0, 1, 2) if method == 'bicubic' else (0, 1)
      kernel = _cubic if method == 'bicubic' else _triangle
      for j in reach:  # Beyond the edge, the edge is repeated.
        weight = kernel(abs(centre - base - j))
        matrix[i, min(max(base + j, 0), size - 1)] += weight
  matrix = matrix.astype(np.float32)
  matrix.setflags(write=False)
  return matrix


def _cubic(x: float) -> float:
  """The convolution kernel of Keys (1981) at distance x in [0, 2]."""
  a = _CUBIC
  if x <= 1:
    return ((a + 2) * x - (a + 3)) * x * x + 1
  return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a


def _triangle(x: float) -> float:
  return max(0.0, 1.0 - x)


def resize(x: Array, size: tuple[int, int], *, method: str) -> Array:
  """Resizes the two axes before the last.

  Args:
    x: [..., H, W, C].
    size: the new (H, W).
    method: see `resize_matrix`.

  Returns:
    [..., *size, C] in the dtype of x; x itself if the size is the same.
  """
  *_, height, width, _ = x.shape
  if (height, width) == tuple(size):
    return x
  rows = jnp.asarray(resize_matrix(height, size[0], method))
  columns = jnp.asarray(resize_matrix(width, size[1], method))
  y = jnp.einsum(
    'ph,qw,...hwc->...pqc',
    rows,
    columns,
    x.astype(jnp.float32),
    precision=jax.lax.Precision.HIGHEST,
  )
  return y.astype(x.dtype)
