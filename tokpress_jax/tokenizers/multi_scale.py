"""A pyramid of token maps per image, coarse to fine.

The bottleneck is VAR's multi-scale residual quantiser (Tian et al., arXiv
2404.02905); encoder and decoder are patch transformers. Legal lengths are the
scales' ends: with random scale drop in training every prefix of scales decodes.

Dimension letters: B batch, h patches a side, D model features, C code features,
L tokens of all scales.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn, quantize
from tokpress_jax.tokenizers import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiScaleConfig(base.TokenizerConfig):
  """A multi-scale tokenizer.

  Attributes:
    width: D.
    heads: attention heads.
    encoder_depth: layers of the encoder.
    decoder_depth: layers of the decoder.
    mlp_ratio: hidden features of an MLP over D.
    activation: of the MLPs, see `BlockConfig`.
    quantizer: the bottleneck; its last scale is the patch grid.
  """

  width: int = 512
  heads: int = 8
  encoder_depth: int = 8
  decoder_depth: int = 8
  mlp_ratio: float = 4.0
  activation: nn.Activation = 'gelu'
  quantizer: quantize.MultiScaleVQConfig = quantize.MultiScaleVQConfig(
    vq=quantize.VQConfig(codebook_size=4096, dim=32)
  )

  def __post_init__(self):
    super().__post_init__()
    last = self.quantizer.grids[-1]
    if last != (self.grid, self.grid):
      raise ValueError(
        f'the last scale must be the patch grid, {self.grid} x {self.grid} '
        f'(image_size / patch), got {last[0]} x {last[1]}'
      )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The scales' ends."""
    return self.quantizer.boundaries

  @property
  def scales(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return self.quantizer.grids

  def build(self, *, dtype: Any = jnp.float32) -> MultiScaleTokenizer:
    """Makes the module."""
    return MultiScaleTokenizer(self, dtype=dtype)


class MultiScaleTokenizer(base.Tokenizer):
  """A patch transformer around a multi-scale residual quantiser."""

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

  @property
  def scales(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return self.config.scales

  @property
  def latent_dim(self) -> int:
    """C, features of the summed map."""
    return self.config.quantizer.dim

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, .] into a map [B, h, h, C]."""
    c = self.config
    batch = images.shape[0]
    x = nn.patchify(images.astype(self.dtype), c.patch)
    x = self.patch_embed(x.reshape(batch, c.grid**2, -1))
    x, _ = self.encoder(x + self.patch_positions()[None])
    x = self.to_code(self.encoder_norm(x))
    return x.reshape(batch, c.grid, c.grid, -1)

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises maps [B, h, h, C] up to the scales within the length."""
    return self.quantizer(latents, mask=mask, keep=self._kept_scales(length))

  def render(self, codes: Array, length: Array) -> Array:
    """Decodes the scales of codes [B, L, 1] within the length [B]."""
    c = self.config
    keep = self._kept_scales(length)
    total = jnp.zeros((codes.shape[0], c.grid, c.grid, c.quantizer.dim))
    start = 0
    for k, stop in enumerate(c.boundaries):
      more, _ = self.quantizer.accumulate(total, codes[:, start:stop], k)
      total = jnp.where((k < keep)[:, None, None, None], more, total)
      start = stop
    return self.decode_map(total)

  def reconstruct(
    self, images: Array, length: Array, *, mask: Array | None = None
  ) -> base.Reconstruction:
    """See `Tokenizer.reconstruct`."""
    self.check_images(images)
    quantized = self.quantize(self.latents(images), length, mask)
    painted = self.decode_map(quantized.embeddings)
    return base.Reconstruction(images=painted, quantized=quantized)

  def decode_map(self, total: Array) -> Array:
    """Decodes a summed map [B, h, h, C] to images [B, H, W, .]."""
    c = self.config
    batch = total.shape[0]
    x = total.reshape(batch, c.grid**2, -1).astype(self.dtype)
    x = self.from_code(x) + self.map_positions()[None]
    x, _ = self.decoder(x)
    x = self.to_patch(self.decoder_norm(x)).astype(jnp.float32)
    return nn.unpatchify(x.reshape(batch, c.grid, c.grid, -1), c.patch)

  def next_inputs(self, codes: Array) -> Array:
    """See `MultiScaleVQ.next_inputs`."""
    return self.quantizer.next_inputs(codes)

  def accumulate(
    self, total: Array, codes: Array, scale: int
  ) -> tuple[Array, Array | None]:
    """See `MultiScaleVQ.accumulate`."""
    return self.quantizer.accumulate(total, codes, scale)

  def _kept_scales(self, length: Array) -> Array:
    """How many scales end within the length, int32 [B]."""
    ends = jnp.asarray(self.boundaries, jnp.int32)
    return jnp.sum(ends[None] <= length[:, None], axis=1)
