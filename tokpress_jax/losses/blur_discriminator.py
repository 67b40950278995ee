"""TiTok's discriminator: blurred halvings, one logit for each large patch.

The patch discriminator of bytedance/1d-tokenizer
(`modeling/modules/discriminator.py`), with which TiTok's decoder is finetuned
(Yu et al., arXiv 2406.07550, appendix A.1) and TA-TiTok trained: 5x5
convolution, then stages of 3x3 convolution, a halving by a blur of (1, 3, 3, 1)
as in Zhang, "Making Convolutional Networks Shift-Invariant Again" (arXiv
1904.11486), group norm and leaky ReLU; a maximum over the places of each of 16
x 16 patches; 1x1 and 5x5.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn import Conv, GroupNorm

Array = jax.Array

_SLOPE = 0.1  # of the leaky ReLU


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlurDiscriminatorConfig:
  """A patch discriminator with blurred halvings; the defaults are TiTok's.

  Attributes:
    width: channels after the first convolution and the first halving; doubled
      by each halving that follows.
    layers: halvings.
    places: logits a side.
    groups: of the group norms; fewer where they do not divide the channels.
  """

  width: int = 128
  layers: int = 3
  places: int = 16
  groups: int = 32

  def __post_init__(self):
    if min(self.width, self.layers, self.places, self.groups) < 1:
      raise ValueError(
        'a discriminator needs width, layers, places and groups of at least 1; '
        f'got {self.width}, {self.layers}, {self.places} and {self.groups}'
      )

  @property
  def smallest(self) -> int:
    """The side of images must be a multiple of this."""
    return self.places * 2**self.layers

  def check(self, image_size: int) -> None:
    """Raises UserError if images of this side do not divide into patches."""
    if image_size % self.smallest:
      raise UserError(
        f'the discriminator halves images {self.layers} times and judges '
        f'{self.places} x {self.places} patches, so that it takes sides of '
        f'{self.smallest}, {2 * self.smallest}, ... pixels, not {image_size}; '
        'lower --task.adversary.network.places, or set '
        '--task.adversary.weight 0.'
      )

  def build(self, *, dtype: Any = jnp.float32) -> BlurDiscriminator:
    """Makes the module."""
    return BlurDiscriminator(self, dtype=dtype)


class BlurDiscriminator(nn.Module):
  """One logit for each patch.

  Attributes:
    config: sizes.
    dtype: inside the convolutions.
  """

  config: BlurDiscriminatorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: Array, *, mask: Array | None = None) -> Array:
    """Judges images.

    Args:
      images: [B, H, W, C] in [-1, 1]; the official network sees [0, 1].
      mask: not read: each image is judged by itself.

    Returns:
      float32 [B, places, places], positive for what looks real.

    Raises:
      ValueError: if the sides of the images do not divide into patches.
    """
    del mask
    c = self.config
    if images.ndim != 4 or any(n % c.smallest for n in images.shape[1:3]):
      raise ValueError(
        f'a discriminator with layers={c.layers} and places={c.places} takes '
        f'images [B, H, W, C] whose sides are multiples of {c.smallest}, got '
        f'{images.shape}'
      )
    conv = lambda features, kernel, name: Conv(
      features, kernel, dtype=self.dtype, name=name
    )
    act = lambda x: nn.leaky_relu(x, _SLOPE)
    x = ((images + 1) / 2).astype(self.dtype)
    x = act(conv(c.width, 5, 'conv_in')(x))
    for i in range(c.layers):
      x = blurred_half(conv(c.width * 2**i, 3, f'conv_{i}')(x))
      groups = math.gcd(c.groups, x.shape[-1])
      norm = GroupNorm(groups, eps=1e-5, dtype=self.dtype, name=f'norm_{i}')
      x = act(norm(x))
    window = tuple(n // c.places for n in x.shape[1:3])
    x = nn.max_pool(x, window, strides=window)
    x = act(conv(x.shape[-1], 1, 'conv_mid')(x))
    x = conv(1, 5, 'conv_out')(x)
    return x[..., 0].astype(jnp.float32)


def blurred_half(x: Array) -> Array:
  """Halves both sides of x [B, H, W, C] by the kernel (1, 3, 3, 1) / 8.

  Zeros are around the image. H and W are even.
  """
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width, channels)
  x = _blurred(x[:, :, 0], x[:, :, 1], axis=1)
  x = x.reshape(batch, height // 2, width // 2, 2, channels)
  return _blurred(x[:, :, :, 0], x[:, :, :, 1], axis=2)


def _blurred(even: Array, odd: Array, *, axis: int) -> Array:
  """At each pair of places: its two thrice, and its neighbours, over 8."""
  around = [(0, 0)] * even.ndim
  around[axis] = (1, 1)
  cut = lambda x, first: jax.lax.slice_in_dim(
    jnp.pad(x, around), first, first + x.shape[axis], axis=axis
  )
  return (cut(odd, 0) + 3 * (even + odd) + cut(even, 2)) / 8
