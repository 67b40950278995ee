"""What happens to pixels before the Inception network, by name.

The ways in use differ, and so do the FIDs (by whole points on small images), so
every number says which one it took:

* `tf1`: TensorFlow 1's bilinear resize, corners not aligned and no half-pixel
  offset, then (x - 128) / 128. What the FID's graph itself does; also
  torch-fidelity's, and that of the usual ImageNet evaluator.
* `clean`: Pillow's bicubic, antialiased, of floats, clipped to [0, 255], then
  (x - 128) / 128. Parmar et al., "On Aliased Resizing and Surprising Subtleties
  in GAN Evaluation" (arXiv:2104.11222), clean-fid's mode `clean`.
* `torch`: bilinear with half-pixel centres, not antialiased, then
  x / 127.5 - 1. What pytorch-fid does.

Images of 299 x 299 differ in the last step only.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.metrics.inception import SIZE
from tokpress_jax.nn import resize as resize_lib

Array = jax.Array

Resize = Literal['tf1', 'clean', 'torch']
RESIZES: tuple[Resize, ...] = get_args(Resize)


def preprocess(images: Array, resize: Resize = 'tf1') -> Array:
  """Makes of images what the network sees.

  Args:
    images: [B, H, W, C] in 0 ... 255, C being 3, or 1 for grey, which counts as
      three equal channels.
    resize: 'tf1', 'clean' or 'torch'; see the module's docstring.

  Returns:
    float32 [B, 299, 299, 3].

  Raises:
    UserError: if the way is unknown or the images have another shape.
  """
  check_resize(resize)
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    raise UserError(
      'The Inception network takes images [B, H, W, C] of 1 or 3 channels; '
      f'got {images.shape}.'
    )
  height, width = images.shape[1:3]
  x = jnp.asarray(images, jnp.float32)
  if (height, width) != (SIZE, SIZE):
    x = jnp.einsum(
      'ph,qw,bhwc->bpqc',
      _matrix(height, resize),
      _matrix(width, resize),
      x,
      precision=jax.lax.Precision.HIGHEST,
    )
  if resize == 'clean':
    x = jnp.clip(x, 0, 255)
  x = x / 127.5 - 1 if resize == 'torch' else (x - 128) / 128
  return jnp.broadcast_to(x, (*x.shape[:3], 3))


def check_resize(resize: str) -> None:
  """Raises UserError for an unknown way."""
  if resize not in RESIZES:
    raise UserError(
      f'resize={resize!r} is no way to resize. {did_you_mean(resize, RESIZES)}'
    )


@functools.cache
def _matrix(size: int, resize: str) -> np.ndarray:
  """The matrix that resizes one axis, float32 [299, size]."""
  if resize == 'torch':
    return resize_lib.resize_matrix(size, SIZE, 'bilinear')
  return (_tf1 if resize == 'tf1' else _pillow_bicubic)(size)


def _tf1(size: int) -> np.ndarray:
  # Positions in float32, as there.
  position = np.arange(SIZE, dtype=np.float32) * np.float32(size / SIZE)
  low = position.astype(np.int64)
  high = np.minimum(low + 1, size - 1)
  part = position - low.astype(np.float32)
  matrix = np.zeros((SIZE, size), np.float32)
  rows = np.arange(SIZE)
  np.add.at(matrix, (rows, low), 1 - part)
  np.add.at(matrix, (rows, high), part)
  return matrix


def _pillow_bicubic(size: int) -> np.ndarray:
  # The kernel of Keys (1981) with a = -0.5, as wide as a pixel of the smaller
  # image, cut at the border and brought to sum 1.
  scale = size / SIZE
  stretch = max(scale, 1.0)
  matrix = np.zeros((SIZE, size))
  for row in range(SIZE):
    centre = (row + 0.5) * scale
    first = max(int(centre - 2 * stretch + 0.5), 0)
    last = min(int(centre + 2 * stretch + 0.5), size)
    distance = np.abs(np.arange(first, last) + 0.5 - centre) / stretch
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    matrix[row, first:last] = weight / weight.sum()
  return matrix.astype(np.float32)
