"""LPIPS: how different two images look.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual
Metric" (arXiv 1801.03924), section 3 and eq. 1, with VGG16 and the released
weights v0.1. Five feature maps of VGG16 are scaled to unit length at each
place; their squared differences are weighed by channel, averaged over places
and summed.

Dimension letters: B batch, H rows, W columns, C channels, K features of a map.

The weights lie in two files, both read by `RULES` (or already joined, as in the
checkpoints of `lpips` and of taming-transformers):

* VGG16: https://download.pytorch.org/models/vgg16-397923af.pth (torchvision)
* the channels' weights: `lpips/weights/v0.1/vgg.pth` of the PyPI package
  `lpips`, which is taming-transformers' `vgg_lpips/vgg.pth`
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.nn import Conv

Array = jax.Array

# The convolutions' places in torchvision's `features`, by resolution; a feature
# map is taken after the last of each row.
LEVELS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
CHANNELS = (64, 128, 256, 512, 512)
# Of ImageNet, for images in [-1, 1].
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)

_INSIDE = r'(?:loss\.)?(?:perceptual_loss\.)?'  # a VQGAN checkpoint's names
_VGG = _INSIDE + r'(?:net\.slice\d\.|features\.)(\d+)'
RULES = (
  keymap.Rule(_VGG + r'\.weight', r'params/conv_\1/kernel', keymap.CONV),
  keymap.Rule(_VGG + r'\.bias', r'params/conv_\1/bias'),
  keymap.Rule(
    _INSIDE + r'lin(\d)\.model\.1\.weight',
    r'params/lin_\1',
    keymap.reshape((1, -1, 1, 1), (-1,)),
  ),
  # A second name of the same tensors, constants, VGG16's classifier.
  keymap.Rule(_INSIDE + r'lins\.\d\.model\.1\.weight', None),
  keymap.Rule(_INSIDE + r'scaling_layer\.(shift|scale)', None),
  keymap.Rule(r'classifier\.\d\.(weight|bias)', None),
)


class LPIPS(nn.Module):
  """The distance, with its weights.

  Attributes:
    dtype: inside the convolutions; the rest is float32.
  """

  dtype: Any = jnp.float32

  def setup(self):
    """Declares the convolutions and the channels' weights."""
    self.conv = [
      [Conv(width, dtype=self.dtype, name=f'conv_{i}') for i in level]
      for level, width in zip(LEVELS, CHANNELS, strict=True)
    ]
    # Not negative, as the released ones are.
    self.lin = [
      self.param(f'lin_{i}', nn.initializers.constant(1 / width), (width,))
      for i, width in enumerate(CHANNELS)
    ]

  def features(self, images: Array) -> list[Array]:
    """VGG16's maps relu1_2, 2_2, 3_3, 4_3 and 5_3.

    Args:
      images: [B, H, W, C] in [-1, 1]; one channel counts as three equal ones.

    Returns:
      [B, H / f, W / f, K] for f = 1, 2, 4, 8, 16.

    Raises:
      ValueError: if the images are smaller than 16 pixels or have neither one
        nor three channels.
    """
    if images.ndim != 4 or min(images.shape[1:3]) < 16:
      raise ValueError(
        'LPIPS halves an image four times, so that it takes [B, H, W, C] of '
        f'16 pixels or more a side; got {images.shape}.'
      )
    if images.shape[-1] not in (1, 3):
      raise ValueError(
        f'LPIPS takes images of 1 or 3 channels; got {images.shape}.'
      )
    x = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
    x = (x - _wide(SHIFT)) / _wide(SCALE)
    found: list[Array] = []
    for level in self.conv:
      if found:
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
      for conv in level:
        x = nn.relu(conv(x))
      found.append(x)
    return found

  def __call__(self, x: Array, y: Array) -> Array:
    """The distance of each pair.

    Args:
      x: [B, H, W, C] in [-1, 1].
      y: of the same shape.

    Returns:
      float32 [B], 0 for equal images.
    """
    if x.shape != y.shape:
      raise ValueError(f'Shapes differ: {x.shape} and {y.shape}.')
    pairs = zip(self.features(x), self.features(y), strict=True)
    distance = jnp.zeros(x.shape[:1])
    for (a, b), weight in zip(pairs, self.lin, strict=True):
      square = jnp.square(_unit(a) - _unit(b))  # [B, h, w, K]
      mean = jnp.mean(square, axis=(1, 2))
      distance += jnp.sum(mean * weight[None], axis=-1)
    return distance


def _unit(x: Array, eps: float = 1e-10) -> Array:
  """Scales the last axis to unit length; the gradient is 0 where x is 0."""
  x = x.astype(jnp.float32)
  square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
  # After a ReLU all features of a place may be 0, where a root has no slope.
  length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
  return x / (length + eps)


def _wide(x: tuple[float, ...]) -> Array:
  return jnp.asarray(x, jnp.float32)[None, None, None]


def expected() -> Any:
  """The shapes of the variables."""
  image = jnp.zeros((1, 16, 16, 3))
  return jax.eval_shape(LPIPS().init, jax.random.key(0), image, image)


def load_lpips(path: str | os.PathLike[str]) -> Any:
  """Reads the weights.

  Args:
    path: a safetensors file, with our names or with the released ones.

  Returns:
    Variables of `LPIPS`, as NumPy arrays.

  Raises:
    UserError: if there is no such file, or if it holds other weights.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise UserError(
      f'there is no file {str(path)!r} with the weights of LPIPS. They are '
      'published as https://download.pytorch.org/models/vgg16-397923af.pth '
      'and as lpips/weights/v0.1/vgg.pth in the PyPI package lpips; make one '
      'safetensors file of them:\n  tokpress convert lpips '
      'vgg16-397923af.pth vgg.pth --out lpips.safetensors\n(To train without: '
      '--task.perceptual-weight 0.)'
    )
  return keymap.read_network(path, RULES, expected())
