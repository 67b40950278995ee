"""Convolutional encoder and decoder of the VQGAN family.

Residual blocks at every level, self-attention at the lowest one and in the
middle (Esser et al., "Taming Transformers", arXiv 2012.09841; Rombach et al.,
"Latent Diffusion", arXiv 2112.10752). The two carry VAR's released weights.

Dimension letters: B batch, H rows, W columns, C channels, K kernel side, N = H
W places.

Traps of the released networks: a halving pads one row below and one column to
the right, not evenly; the decoder has one residual block more at each level
than the encoder; levels are numbered from the highest resolution in both.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.nn import norms, platforms, winograd
from tokpress_jax.nn.attention import dot_product_attention

Array = jax.Array


def conv2d(
  x: Array,
  kernel: Array,
  *,
  stride: int = 1,
  padding: tuple[tuple[int, int], tuple[int, int]] | None = None,
  before: norms.Affine | None = None,
) -> Array:
  """A two-dimensional convolution (cross-correlation, as everywhere).

  Wide 3x3 convolutions of float32 maps take `winograd.conv3x3` on a CPU.

  Args:
    x: [B, H, W, C].
    kernel: [K, K, C, C'].
    stride: of the output.
    padding: zeros (above, below), (left, right); K // 2 each if None.
    before: a norm; x is normalised and goes through SiLU first.

  Returns:
    [B, H', W', C'] in x's dtype.
  """
  affine = () if before is None else (before.mean, before.factor, before.shift)
  plain = stride == 1 and padding is None
  divides = x.shape[1] % 4 == x.shape[2] % 4 == 0
  if plain and divides and _is_wide(x, kernel, places=1024):
    if affine:
      return _activated_conv3x3(x, kernel, *affine)
    return _conv3x3(x, kernel)
  if affine:
    x = _activate(x, *affine)
  return _convolve(x, kernel, stride, padding)


def doubled_conv2d(x: Array, kernel: Array) -> Array:
  """Doubles both sides of x [B, H, W, C] by repetition, then `conv2d`."""
  if _is_wide(x, kernel, places=256):
    return _doubled_conv3x3(x, kernel)
  return conv2d(upsample(x), kernel)


def _convolve(
  x: Array,
  kernel: Array,
  stride: int = 1,
  padding: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Array:
  if kernel.shape[:2] == (1, 1) and stride == 1 and padding is None:
    high = jax.lax.Precision.HIGHEST
    return jnp.matmul(x, kernel[0, 0], precision=high)
  if padding is None:
    half = kernel.shape[0] // 2
    padding = ((half, half), (half, half))
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    padding,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    precision=jax.lax.Precision.HIGHEST,
  )


def _is_wide(x: Array, kernel: Array, *, places: int) -> bool:
  """Whether fewer products pay: the additions are amortised by channels.

  Kernels are transformed at each call, which a large map amortises.
  """
  return (
    x.dtype == kernel.dtype == jnp.float32
    and kernel.shape[:2] == (3, 3)
    and min(kernel.shape[2:]) >= 128
    and x.shape[0] * x.shape[1] * x.shape[2] >= places
  )


def _activate(x: Array, mean: Array, factor: Array, shift: Array) -> Array:
  """SiLU of a normalised map; see `norms.Affine`."""
  affine = norms.Affine(mean=mean, factor=factor, shift=shift)
  return nn.silu(affine(x).astype(x.dtype))


_conv3x3 = platforms.on_cpu(winograd.conv3x3, _convolve)
_activated_conv3x3 = platforms.on_cpu(
  lambda x, kernel, *affine: winograd.conv3x3(
    x, kernel, before=lambda part: _activate(part, *affine)
  ),
  lambda x, kernel, *affine: _convolve(_activate(x, *affine), kernel),
)


def kernel_init(
  key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Array:
  """Draws a kernel [K, K, C, C'] of variance 1 over K K C (LeCun).

  Drawn as a row: XLA takes several seconds on a CPU to compile random bits of
  four axes.
  """
  flat = nn.initializers.truncated_normal(1.0, dtype)(key, (math.prod(shape),))
  # A normal cut at 2 has standard deviation 0.8796.
  scale = (math.prod(shape[:-1]) ** -0.5) / 0.87962566103423978
  return (scale * flat).reshape(shape)


class Conv(nn.Module):
  """`conv2d` with its kernel and bias.

  Attributes:
    features: C'.
    kernel: K.
    stride: of the output.
    padding: see `conv2d`.
    doubled: both sides are doubled by repetition first.
    use_bias: whether there is a bias.
    dtype: of the arithmetic.
  """

  features: int
  kernel: int = 3
  stride: int = 1
  padding: tuple[tuple[int, int], tuple[int, int]] | None = None
  doubled: bool = False
  use_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, *, before: norms.Affine | None = None) -> Array:
    """Maps [B, H, W, C] to [B, H', W', C']; `before` as in `conv2d`."""
    shape = (self.kernel, self.kernel, x.shape[-1], self.features)
    kernel = self.param('kernel', kernel_init, shape).astype(self.dtype)
    x = x.astype(self.dtype)
    if self.doubled:
      y = doubled_conv2d(x, kernel)
    else:
      y = conv2d(
        x, kernel, stride=self.stride, padding=self.padding, before=before
      )
    if not self.use_bias:
      return y
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    return y + bias.astype(self.dtype)[None, None, None]


def upsample(x: Array) -> Array:
  """Doubles both sides of x [B, H, W, C] by repetition."""
  batch, height, width, channels = x.shape
  shape = (batch, height, 2, width, 2, channels)
  wide = jnp.broadcast_to(x[:, :, None, :, None], shape)
  return wide.reshape(batch, 2 * height, 2 * width, channels)


_doubled_conv3x3 = platforms.on_cpu(
  winograd.doubled_conv3x3, lambda x, kernel: _convolve(upsample(x), kernel)
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvConfig:
  """A convolutional encoder or decoder.

  Attributes:
    width: channels at the highest resolution.
    multipliers: channels of each level over the width, from the highest
      resolution; each level halves the sides of the one before.
    blocks: residual blocks of a level.
    attention: 'lowest': self-attention after each block of the lowest level,
      and in the middle; 'middle': there alone (latent diffusion's autoencoder);
      'none'.
    groups: of the group norms.
  """

  width: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  blocks: int = 2
  attention: Literal['lowest', 'middle', 'none'] = 'lowest'
  groups: int = 32

  def __post_init__(self):
    wrong = [c for c in self.channels if c < 1 or c % self.groups]
    if wrong or not self.channels:
      raise ValueError(
        f'{self.groups} groups do not divide the channels {self.channels} of '
        'the levels (width times each multiplier); change width or groups'
      )

  @property
  def channels(self) -> tuple[int, ...]:
    """Channels of each level, from the highest resolution."""
    return tuple(self.width * m for m in self.multipliers)

  @property
  def factor(self) -> int:
    """How many times smaller the lowest level's sides are."""
    return 2 ** (len(self.multipliers) - 1)


class ResBlock(nn.Module):
  """Norm, SiLU, 3x3 twice; a 1x1 shortcut where the channels change."""

  features: int
  groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H, W, C']."""
    norm = lambda name: norms.GroupNorm(
      self.groups, dtype=self.dtype, name=name
    )
    conv = lambda kernel, name: Conv(
      self.features, kernel, dtype=self.dtype, name=name
    )
    y = conv(3, 'conv1')(x, before=norm('norm1').affine(x))
    y = conv(3, 'conv2')(y, before=norm('norm2').affine(y))
    if x.shape[-1] != self.features:
      x = conv(1, 'shortcut')(x)
    return x + y


class SpatialAttention(nn.Module):
  """One head of self-attention over all places, with a residual."""

  groups: int = 32
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    batch, height, width, channels = x.shape
    y = norms.GroupNorm(self.groups, dtype=self.dtype, name='norm')(x)
    y = y.reshape(batch, 1, height * width, channels)  # one head
    dense = lambda n, name: nn.Dense(n, dtype=self.dtype, name=name)
    q, k, v = jnp.split(dense(3 * channels, 'qkv')(y), 3, axis=-1)
    y = dense(channels, 'proj')(dot_product_attention(q, k, v))
    return x + y.reshape(x.shape)


class Middle(nn.Module):
  """Two residual blocks with attention between them."""

  config: ConvConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to the same shape."""
    c = self.config
    block = lambda name: ResBlock(
      c.channels[-1], c.groups, dtype=self.dtype, name=name
    )
    x = block('block_1')(x)
    if c.attention != 'none':
      x = SpatialAttention(c.groups, dtype=self.dtype, name='attn')(x)
    return block('block_2')(x)


class Level(nn.Module):
  """The residual blocks of one resolution, then a change of resolution.

  Attributes:
    config: of the whole network.
    level: which, 0 is the highest resolution.
    change: 'down', 'up' or None.
    dtype: of the arithmetic.
  """

  config: ConvConfig
  level: int
  change: str | None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H', W', C']."""
    c = self.config
    features = c.channels[self.level]
    lowest = self.level == len(c.channels) - 1
    for i in range(c.blocks):
      x = ResBlock(features, c.groups, dtype=self.dtype, name=f'block_{i}')(x)
      if lowest and c.attention == 'lowest':
        attend = SpatialAttention(c.groups, dtype=self.dtype, name=f'attn_{i}')
        x = attend(x)
    if self.change == 'up':
      x = Conv(features, doubled=True, dtype=self.dtype, name='up')(x)
    elif self.change == 'down':
      below_right = ((0, 1), (0, 1))
      x = Conv(
        features, stride=2, padding=below_right, dtype=self.dtype, name='down'
      )(x)
    return x


class ConvEncoder(nn.Module):
  """Images to a map of features.

  Attributes:
    config: of the network.
    features: of the map.
    dtype: of the arithmetic; norms are float32 inside.
  """

  config: ConvConfig
  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H / f, W / f, features], f = config.factor."""
    c = self.config
    last = len(c.channels) - 1
    x = Conv(c.width, dtype=self.dtype, name='conv_in')(x)
    for i in range(len(c.channels)):
      change = 'down' if i < last else None
      x = Level(c, i, change, dtype=self.dtype, name=f'level_{i}')(x)
    x = Middle(c, dtype=self.dtype, name='mid')(x)
    x = norms.GroupNorm(c.groups, dtype=self.dtype, name='norm_out')(x)
    return Conv(self.features, dtype=self.dtype, name='conv_out')(nn.silu(x))


class ConvDecoder(nn.Module):
  """A map of features to images.

  `to_pixels(features(x))` is the whole; a loss that needs gradients at the last
  layer alone calls the two.

  Attributes:
    config: of the network, its blocks those of the decoder.
    channels: of the images.
    dtype: of the arithmetic; norms are float32 inside.
  """

  config: ConvConfig
  channels: int = 3
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.conv_in = Conv(c.channels[-1], dtype=self.dtype)
    self.mid = Middle(c, dtype=self.dtype)
    self.level = [
      Level(c, i, 'up' if i else None, dtype=self.dtype, name=f'level_{i}')
      for i in range(len(c.channels))
    ]
    self.norm_out = norms.GroupNorm(c.groups, dtype=self.dtype)
    self.conv_out = Conv(self.channels, dtype=self.dtype)

  def features(self, x: Array) -> Array:
    """All but the last convolution: [B, h, w, C] to [B, H, W, width]."""
    x = self.mid(self.conv_in(x))
    for level in reversed(self.level):
      x = level(x)
    return nn.silu(self.norm_out(x))

  def to_pixels(self, x: Array) -> Array:
    """The last convolution: [B, H, W, width] to [B, H, W, channels]."""
    return self.conv_out(x)

  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, C] to [B, f h, f w, channels], f = config.factor."""
    return self.to_pixels(self.features(x))
