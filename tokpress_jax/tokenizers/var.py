"""VAR's multi-scale VQVAE: a convolutional encoder and decoder.

Tian et al., "Visual Autoregressive Modeling" (VAR, 2024, arXiv 2404.02905),
section 3.2. The network is VQGAN's; the bottleneck codes a map of 16 x 16 from
coarse to fine over one codebook of 4096 codes. The released weights serve VAR
at 256 and 512 pixels, MVAR and STAR: scales and image size are no part of them.

Dimension letters: B batch, H rows, W columns, h rows and columns of the finest
map, C code features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.tokenizers import convolutional, pyramid

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class VARTokenizerConfig(
  convolutional.ConvolutionalConfig, pyramid.PyramidConfig
):
  """VAR's tokenizer; the defaults are those of the released weights.

  Attributes:
    attention: self-attention at the lowest level and in the middle.
  """

  width: int = 160
  attention: bool = True

  def convolutions(self, more: int) -> nn.ConvConfig:
    """The convolutional network, with `more` residual blocks a level."""
    return self.network('lowest' if self.attention else 'none', more=more)

  def build(self, *, dtype: Any = jnp.float32) -> VARTokenizer:
    """Makes the module."""
    return VARTokenizer(self, dtype=dtype)


class VARTokenizer(pyramid.PyramidTokenizer):
  """Convolutions around a multi-scale residual quantiser."""

  last_layer: ClassVar[tuple[str, ...]] = ('decoder', 'conv_out')

  config: VARTokenizerConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.encoder = nn.ConvEncoder(
      c.convolutions(0), c.latent_dim, dtype=self.dtype
    )
    self.decoder = nn.ConvDecoder(
      c.convolutions(1), c.channels, dtype=self.dtype
    )
    self.pre_quant = nn.Conv(c.latent_dim)
    self.post_quant = nn.Conv(c.latent_dim)
    self.quantizer = c.quantizer.build()

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, .] into a map [B, h, h, C], float32."""
    x = self.encoder(images.astype(self.dtype))
    return self.pre_quant(x.astype(jnp.float32))

  def decode_map(self, total: Array) -> Array:
    """Decodes a summed map [B, h, h, C] to images [B, H, W, .]."""
    return self.to_pixels(self.decode_features(total))

  def decode_features(self, total: Array) -> Array:
    """All but the decoder's last layer: [B, H, W, width]."""
    return self.decoder.features(self.post_quant(total))

  def to_pixels(self, features: Array) -> Array:
    """The decoder's last layer: [B, H, W, width] to float32 [B, H, W, .]."""
    return self.decoder.to_pixels(features).astype(jnp.float32)
