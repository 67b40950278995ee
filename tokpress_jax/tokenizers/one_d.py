"""A row of latent tokens per image, every prefix of which decodes.

TiTok's layout (Yu et al., "An Image is Worth 32 Tokens", arXiv 2406.07550): a
patch transformer in which N learned latents read the patches; the latents are
quantised; in the decoder mask tokens, one per patch, read the latents. With
nested dropout the tokens are ordered by importance (One-D-Piece, arXiv
2501.10064): tokens beyond an image's length are hidden from the decoder by the
attention mask, which equals truncation and keeps shapes static.

Dimension letters: B batch, N latent tokens, h patches a side, D model features,
C code features, Q codes per token.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn, quantize
from tokpress_jax.tokenizers import base, vectors
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.towers import SlotDense, repeat

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneDConfig(base.TokenizerConfig):
  """A one-dimensional tokenizer.

  Attributes:
    tokens: N.
    width: D.
    heads: attention heads.
    encoder_depth: layers of the encoder.
    decoder_depth: layers of the decoder.
    mlp_ratio: hidden features of an MLP over D.
    activation: of the MLPs, see `BlockConfig`.
    quantizer: the bottleneck.
  """

  tokens: int = 32
  width: int = 512
  heads: int = 8
  encoder_depth: int = 8
  decoder_depth: int = 8
  mlp_ratio: float = 4.0
  activation: nn.Activation = 'gelu'
  quantizer: quantize.VQConfig | quantize.FSQConfig = quantize.VQConfig(
    codebook_size=4096, dim=12, distance='cosine'
  )

  def __post_init__(self):
    super().__post_init__()
    if self.tokens < 1:
      raise ValueError(f'tokens must be at least 1, got {self.tokens}')

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Every length from 1 to N is legal."""
    return tuple(range(1, self.tokens + 1))

  def build(self, *, dtype: Any = jnp.float32) -> OneDTokenizer:
    """Makes the module."""
    return OneDTokenizer(self, dtype=dtype)


class OneDTokenizer(vectors.VectorTokenizer):
  """Patches and latents through a transformer, and back."""

  last_layer: ClassVar[tuple[str, ...]] = ('to_patch',)

  config: OneDConfig

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
    table = lambda length: nn.LearnedPositions(
      length, c.width, std=0.5, dtype=self.dtype
    )
    dense = lambda n: linen.Dense(n, dtype=self.dtype)
    self.patch_embed = dense(c.width)
    self.patch_positions = table(c.grid**2)
    self.latent_tokens = table(c.tokens)
    self.encoder = stack(c.encoder_depth)
    self.encoder_norm = nn.LayerNorm(dtype=self.dtype)
    self.to_code = SlotDense(c.tokens, c.quantizer.dim, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.from_code = SlotDense(c.tokens, c.width, dtype=self.dtype)
    self.token_positions = table(c.tokens)
    self.mask_tokens = table(c.grid**2)
    self.decoder = stack(c.decoder_depth)
    self.decoder_norm = nn.LayerNorm(dtype=self.dtype)
    self.to_patch = dense(c.patch**2 * c.channels)

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, C] into latents [B, N, C]."""
    c = self.config
    patches = nn.patchify(images.astype(self.dtype), c.patch)
    x = self.patch_embed(patches.reshape(images.shape[0], c.grid**2, -1))
    x = x + self.patch_positions()[None]
    latents = repeat(self.latent_tokens(), images)
    x, _ = self.encoder(jnp.concatenate([x, latents], axis=1))
    return self.to_code(self.encoder_norm(x[:, c.grid**2 :]))

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises latents [B, N, C]; tokens beyond the length do not count."""
    seen = lengths_lib.prefix_mask(length, self.config.tokens)
    if mask is not None:
      seen = seen & mask[:, None]
    return self.quantizer(latents, mask=seen)

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes embeddings [B, N, C] of which the first `length` count."""
    c = self.config
    batch = embeddings.shape[0]
    slots = embeddings.shape[1]
    tokens = self.from_code(embeddings.astype(self.dtype))
    tokens = tokens + self.token_positions(slice(slots))[None]
    canvas = repeat(self.mask_tokens(), tokens)
    x = jnp.concatenate([canvas, tokens], axis=1)
    seen = lengths_lib.prefix_mask(length, slots)
    seen = jnp.pad(seen, ((0, 0), (c.grid**2, 0)), constant_values=True)
    x, _ = self.decoder(x, mask=seen[:, None, None])
    x = self.to_patch(self.decoder_norm(x[:, : c.grid**2]))
    x = x.astype(jnp.float32).reshape(batch, c.grid, c.grid, -1)
    return nn.unpatchify(x, c.patch)
