"""A discriminator that judges overlapping patches of an image.

Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks"
(pix2pix, arXiv 1611.07004), section 3.2.2 and appendix: 4x4 convolutions, the
first ones halving the image, leaky ReLU; with three of them a logit sees 70 x
70 pixels.

Dimension letters: B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn import GroupNorm, conv2d

Array = jax.Array

_EVEN = ((1, 1), (1, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchDiscriminatorConfig:
  """A PatchGAN discriminator.

  Attributes:
    width: channels after the first convolution; doubled by each that follows,
      up to 8 times.
    layers: convolutions that halve the image.
    norm: 'group' (the default), 'batch' or 'none'. 'batch' is pix2pix's and
      VQGAN's, with the statistics of the whole (global) batch and, as only
      training runs it, no running averages; but then an image's logit depends
      on its neighbours, and microbatches differ from the whole batch. 'group'
      judges each image by itself, so that devices and microbatches change
      nothing.
    groups: of the group norms; fewer where they do not divide the channels.
  """

  width: int = 64
  layers: int = 3
  norm: Literal['group', 'batch', 'none'] = 'group'
  groups: int = 32

  def __post_init__(self):
    if self.width < 1 or self.layers < 1 or self.groups < 1:
      raise ValueError(
        'a discriminator needs width, layers and groups of at least 1; got '
        f'{self.width}, {self.layers} and {self.groups}'
      )

  @property
  def smallest(self) -> int:
    """The smallest side of an image that gives a logit."""
    return 3 * 2**self.layers

  def check(self, image_size: int) -> None:
    """Raises UserError if images of this side are too small."""
    if image_size < self.smallest:
      raise UserError(
        f'the discriminator takes images of {self.smallest} pixels or more, '
        f'not {image_size}; lower --task.adversary.network.layers, or set '
        '--task.adversary.weight 0.'
      )

  def build(self, *, dtype: Any = jnp.float32) -> PatchDiscriminator:
    """Makes the module."""
    return PatchDiscriminator(self, dtype=dtype)


class PatchDiscriminator(nn.Module):
  """One logit for each patch.

  Attributes:
    config: sizes and norm.
    dtype: inside the convolutions.
  """

  config: PatchDiscriminatorConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images: Array, *, mask: Array | None = None) -> Array:
    """Judges images.

    Args:
      images: [B, H, W, C] in [-1, 1].
      mask: bool [B], False for padding, which 'batch' does not count.

    Returns:
      float32 [B, h, w], positive for what looks real.

    Raises:
      ValueError: if the images are too small.
    """
    c = self.config
    if images.ndim != 4 or min(images.shape[1:3]) < c.smallest:
      raise ValueError(
        f'a discriminator with layers={c.layers} takes images [B, H, W, C] of '
        f'{c.smallest} pixels or more a side, got {images.shape}; give it '
        'fewer layers'
      )
    x = images.astype(self.dtype)
    for i in range(c.layers + 1):
      features = c.width * min(2**i, 8)
      normed = i > 0 and c.norm != 'none'
      # A norm's own bias follows; group norm keeps the convolution's.
      bias = not (normed and c.norm == 'batch')
      stride = 2 if i < c.layers else 1
      x = self._conv(f'conv_{i}', x, features, stride=stride, bias=bias)
      if normed:
        x = self._norm(f'norm_{i}', x, mask)
      x = nn.leaky_relu(x, 0.2)
    x = self._conv(f'conv_{c.layers + 1}', x, 1)
    return x[..., 0].astype(jnp.float32)

  def _conv(
    self, name: str, x: Array, features: int, *, stride: int = 1, bias=True
  ) -> Array:
    conv = _Conv4(features, stride, bias, dtype=self.dtype, name=name)
    return conv(x)

  def _norm(self, name: str, x: Array, mask: Array | None) -> Array:
    if self.config.norm == 'batch':
      return BatchStatNorm(dtype=self.dtype, name=name)(x, mask)
    groups = math.gcd(self.config.groups, x.shape[-1])
    return GroupNorm(groups, dtype=self.dtype, name=name)(x)


def _kernel_init(key: Array, shape: tuple[int, ...]) -> Array:
  """Normal, 0.02; drawn as a row, see `nn.conv.kernel_init`."""
  return 0.02 * jax.random.normal(key, (math.prod(shape),)).reshape(shape)


class _Conv4(nn.Module):
  """A 4x4 convolution with one row of zeros on each side; pix2pix's init."""

  features: int
  stride: int
  bias: bool
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    shape = (4, 4, x.shape[-1], self.features)
    kernel = self.param('kernel', _kernel_init, shape).astype(self.dtype)
    x = conv2d(x, kernel, stride=self.stride, padding=_EVEN)
    if self.bias:
      bias = self.param('bias', nn.initializers.zeros, (self.features,))
      x = x + bias.astype(self.dtype)[None, None, None]
    return x


class BatchStatNorm(nn.Module):
  """Batch norm by the statistics of this very batch, float32 inside.

  Under `jit` a batch is the global one, over all devices.

  Attributes:
    eps: added to the variance.
    dtype: of the output.
  """

  eps: float = 1e-5
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, mask: Array | None = None) -> Array:
    """Normalises x [B, H, W, C]; `mask` bool [B] says which rows count."""
    x = x.astype(jnp.float32)
    weight = jnp.ones(x.shape[:1]) if mask is None else mask.astype(x.dtype)
    weight = weight / jnp.maximum(jnp.sum(weight), 1.0)
    mean_of = lambda y: jnp.einsum(
      'b,bhwc->c',
      weight / (y.shape[1] * y.shape[2]),
      jnp.where(weight[:, None, None, None] > 0, y, 0.0),
      precision=jax.lax.Precision.HIGHEST,
    )[None, None, None]
    centred = x - mean_of(x)
    variance = mean_of(jnp.square(centred))
    wide = lambda y: y[None, None, None]
    channels = x.shape[-1:]
    # pix2pix draws the scales around 1.
    scale = self.param(
      'scale', lambda key, s: 1 + 0.02 * jax.random.normal(key, s), channels
    )
    bias = self.param('bias', nn.initializers.zeros, channels)
    y = centred * jax.lax.rsqrt(variance + self.eps) * wide(scale) + wide(bias)
    return y.astype(self.dtype)
