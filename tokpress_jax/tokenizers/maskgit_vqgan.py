"""MaskGIT's VQGAN: a grid of codes, from convolutions without attention.

Chang et al., "MaskGIT: Masked Generative Image Transformer" (2022, arXiv
2202.04200), section 3.1: an image of 256 x 256 pixels becomes 16 x 16 tokens
over 1024 codes. TiTok, One-D-Piece, KARL and ResTok paint with its decoder, RAR
and ENAT generate its codes. The released weights are those of its PyTorch port.

Where it departs from `nn.ConvEncoder`: no attention; convolutions of blocks
have no bias; a halving is a mean of 2 x 2 places; and a block that changes the
number of channels has its 1x1 shortcut on what the block gives, not on its
input, so that its input is lost. Convolutions pad as TensorFlow's "SAME", which
at stride 1 is half a kernel on each side.

Dimension letters: B batch, H rows, W columns, h grid side, C channels, N = h^2
tokens.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn, quantize
from tokpress_jax.tokenizers import convolutional, vectors

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskGITVQGANConfig(convolutional.ConvolutionalConfig):
  """MaskGIT's tokenizer; the defaults are those of the released weights.

  `blocks` are those of the decoder and of the middle, too.

  Attributes:
    quantizer: the bottleneck.
  """

  quantizer: quantize.VQConfig = quantize.VQConfig(codebook_size=1024, dim=256)

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The whole grid only."""
    return (self.grid**2,)

  @property
  def convolutions(self) -> nn.ConvConfig:
    """The convolutional network of encoder and decoder."""
    return self.network('none')

  def build(self, *, dtype: Any = jnp.float32) -> MaskGITVQGAN:
    """Makes the module."""
    return MaskGITVQGAN(self, dtype=dtype)


class MaskGITVQGAN(vectors.VectorTokenizer):
  """Convolutions around a grid of codes, in raster order."""

  last_layer: ClassVar[tuple[str, ...]] = ('decoder', 'conv_out')

  config: MaskGITVQGANConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.encoder = Encoder(c.convolutions, c.quantizer.dim, dtype=self.dtype)
    self.decoder = Decoder(c.convolutions, c.channels, dtype=self.dtype)
    self.quantizer = c.quantizer.build()

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, C] into latents [B, N, .], float32."""
    # The network was trained with pixels in [0, 1].
    x = self.encoder(((images + 1) / 2).astype(self.dtype))
    return x.reshape(x.shape[0], -1, x.shape[-1]).astype(jnp.float32)

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises latents [B, N, .]; the length is that of the grid."""
    del length
    if mask is not None:
      mask = jnp.broadcast_to(mask[:, None], latents.shape[:2])
    return self.quantizer(latents, mask=mask)

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes embeddings [B, N, .]; the length is that of the grid."""
    del length
    grid = self.config.grid
    x = embeddings.reshape(embeddings.shape[0], grid, grid, -1)
    x = self.decoder(x.astype(self.dtype))
    return 2 * x.astype(jnp.float32) - 1


class ResBlock(linen.Module):
  """Norm, SiLU, 3x3 twice; the shortcut of a change of channels is odd."""

  features: int
  groups: int = 32
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H, W, C']."""
    norm = lambda name: nn.GroupNorm(self.groups, dtype=self.dtype, name=name)
    conv = lambda kernel, name: nn.Conv(
      self.features, kernel, use_bias=False, dtype=self.dtype, name=name
    )
    y = conv(3, 'conv1')(x, before=norm('norm1').affine(x))
    y = conv(3, 'conv2')(y, before=norm('norm2').affine(y))
    if x.shape[-1] != self.features:
      x = conv(1, 'shortcut')(y)  # Of y, as released; x is lost here.
    return x + y


class _Blocks(linen.Module):
  """Residual blocks of one resolution."""

  config: nn.ConvConfig
  features: int
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the blocks."""
    c = self.config
    self.block = [
      ResBlock(self.features, c.groups, dtype=self.dtype, name=f'block_{i}')
      for i in range(c.blocks)
    ]

  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H, W, features]."""
    for block in self.block:
      x = block(x)
    return x


class Encoder(linen.Module):
  """Images to a map of features.

  Attributes:
    config: of the network.
    features: of the map.
    dtype: of the arithmetic; norms are float32 inside.
  """

  config: nn.ConvConfig
  features: int
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, H / f, W / f, features], f = config.factor."""
    c = self.config
    blocks = lambda features, name: _Blocks(
      c, features, dtype=self.dtype, name=name
    )
    x = nn.Conv(c.width, use_bias=False, dtype=self.dtype, name='conv_in')(x)
    for i, features in enumerate(c.channels):
      if i:
        x = halve(x)
      x = blocks(features, f'level_{i}')(x)
    x = blocks(c.channels[-1], 'mid')(x)
    x = nn.GroupNorm(c.groups, dtype=self.dtype, name='norm_out')(x)
    out = nn.Conv(self.features, 1, dtype=self.dtype, name='conv_out')
    return out(linen.silu(x))


class Decoder(linen.Module):
  """A map of features to images.

  Attributes:
    config: of the network.
    channels: of the images.
    dtype: of the arithmetic; norms are float32 inside.
  """

  config: nn.ConvConfig
  channels: int = 3
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, h, w, C] to [B, f h, f w, channels], f = config.factor."""
    c = self.config
    blocks = lambda features, name: _Blocks(
      c, features, dtype=self.dtype, name=name
    )
    x = nn.Conv(c.channels[-1], dtype=self.dtype, name='conv_in')(x)
    x = blocks(c.channels[-1], 'mid')(x)
    for i, features in reversed(list(enumerate(c.channels))):
      x = blocks(features, f'level_{i}')(x)
      if i:
        x = nn.Conv(features, doubled=True, dtype=self.dtype, name=f'up_{i}')(x)
    x = nn.GroupNorm(c.groups, dtype=self.dtype, name='norm_out')(x)
    out = nn.Conv(self.channels, dtype=self.dtype, name='conv_out')
    return out(linen.silu(x))


def halve(x: Array) -> Array:
  """Means of 2 x 2 places: [B, H, W, C] to [B, H / 2, W / 2, C]."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
  return jnp.mean(x, axis=(2, 4))
