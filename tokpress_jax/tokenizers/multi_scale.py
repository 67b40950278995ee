"""A multi-scale tokenizer of patch transformers, for small images.

VAR's bottleneck (Tian et al., arXiv 2404.02905) between transformers instead of
convolutions: much faster to train on a CPU.

Dimension letters: B batch, h patches a side, D model features, C code features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.tokenizers import pyramid

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleConfig(pyramid.PyramidConfig):
  """A multi-scale tokenizer of transformers.

  Attributes:
    width: D.
    heads: attention heads.
    encoder_depth: layers of the encoder.
    decoder_depth: layers of the decoder.
    mlp_ratio: hidden features of an MLP over D.
    activation: of the MLPs, see `BlockConfig`.
  """

  width: int = 512
  heads: int = 8
  encoder_depth: int = 8
  decoder_depth: int = 8
  mlp_ratio: float = 4.0
  activation: nn.Activation = 'gelu'

  def build(self, *, dtype: Any = jnp.float32) -> MultiScaleTokenizer:
    """Makes the module."""
    return MultiScaleTokenizer(self, dtype=dtype)


class MultiScaleTokenizer(pyramid.PyramidTokenizer):
  """A patch transformer around a multi-scale residual quantiser."""

  last_layer: ClassVar[tuple[str, ...]] = ('to_patch',)

  config: MultiScaleConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    stack = lambda depth: nn.Stack(
      nn.StackConfig(
        depth=depth,
        block=nn.BlockConfig(
          width=c.width,
          heads=c.heads,
          mlp_ratio=c.mlp_ratio,
          activation=c.activation,
        ),
      ),
      dtype=self.dtype,
    )
    table = lambda: nn.LearnedPositions(
      c.grid**2, c.width, std=0.5, dtype=self.dtype
    )
    dense = lambda n: linen.Dense(n, dtype=self.dtype)
    self.patch_embed = dense(c.width)
    self.patch_positions = table()
    self.encoder = stack(c.encoder_depth)
    self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
    self.to_code = dense(c.quantizer.dim)
    self.quantizer = c.quantizer.build()
    self.from_code = dense(c.width)
    self.map_positions = table()
    self.decoder = stack(c.decoder_depth)
    self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
    self.to_patch = dense(c.patch**2 * c.channels)

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, .] into a map [B, h, h, C]."""
    c = self.config
    batch = images.shape[0]
    x = nn.patchify(images.astype(self.dtype), c.patch)
    x = self.patch_embed(x.reshape(batch, c.grid**2, -1))
    x, _ = self.encoder(x + self.patch_positions()[None])
    x = self.to_code(self.encoder_norm(x))
    return x.reshape(batch, c.grid, c.grid, -1)

  def decode_map(self, total: Array) -> Array:
    """Decodes a summed map [B, h, h, C] to images [B, H, W, .]."""
    c = self.config
    batch = total.shape[0]
    x = total.reshape(batch, c.grid**2, -1).astype(self.dtype)
    x = self.from_code(x) + self.map_positions()[None]
    x, _ = self.decoder(x)
    x = self.to_patch(self.decoder_norm(x)).astype(jnp.float32)
    return nn.unpatchify(x.reshape(batch, c.grid, c.grid, -1), c.patch)
