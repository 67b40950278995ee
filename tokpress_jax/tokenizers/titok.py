"""TiTok and its relatives: a row of latent tokens, as released.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation"
(TiTok, 2024, arXiv 2406.07550), section 3: learned latents read the patches in
an encoder, go through a bottleneck, and mask tokens, one per patch, read them
in a decoder. TA-TiTok (Kim et al., 2025, arXiv 2501.07730) gives the decoder a
text's features too. One-D-Piece (Miwa et al., 2025, arXiv 2501.10064) trains
with random prefixes, so that every prefix decodes: tokens beyond an image's
length are hidden from the decoder by the attention mask, which equals cutting
them off.

Dimension letters: B batch, N latent tokens, h patches a side, D model features,
C code features, Q codes per token, M text tokens, V codes of the VQGAN.

Traps of the released networks: in the first ones (`layout='legacy'`) a token is
no latent's. Their [N, D] features are read as a [D, N] matrix without
transposing, so that token n is column n of it and mixes all latents; weights
say nothing of it. Pixels are in [0, 1] there, in [-1, 1] here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors, nn, quantize
from tokpress_jax.tokenizers import base, maskgit_vqgan, painters, towers
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.towers import (
  TOWERS,
  Parts,
  TowerConfig,
  repeat,
)

Array = jax.Array

Layout = Literal['token', 'legacy']


@dataclasses.dataclass(frozen=True, kw_only=True)
class TiTokConfig(base.TokenizerConfig):
  """A tokenizer of the TiTok family; the defaults are TiTok-BL-64's.

  Attributes:
    tokens: N.
    encoder: its size.
    decoder: its size.
    quantizer: the bottleneck; a Gaussian gives continuous tokens.
    layout: 'token', or 'legacy' for the first released weights (TiTok-L-32,
      -B-64, -S-128, One-D-Piece), whose tokens mix all latents.
    prefixes: 'whole' where all tokens are needed, 'any' where every prefix
      decodes (One-D-Piece).
    vqgan: the decoder predicts this network's codes, and its mixture of their
      vectors is painted by it; None: the decoder gives pixels.
    text_tokens: M, texts' features that the decoder reads; 0 for none.
    text_features: of one of them (CLIP's).
  """

  tokens: int = 64
  encoder: TowerConfig = TOWERS['base']
  decoder: TowerConfig = TOWERS['large']
  quantizer: quantize.VQConfig | quantize.GaussianConfig = quantize.VQConfig(
    codebook_size=8192, dim=64
  )
  layout: Layout = 'token'
  prefixes: Literal['whole', 'any'] = 'whole'
  vqgan: maskgit_vqgan.MaskGITVQGANConfig | None = None
  text_tokens: int = 0
  text_features: int = 768

  def __post_init__(self):
    super().__post_init__()
    if self.tokens < 1:
      raise ValueError(f'tokens must be at least 1, got {self.tokens}')
    if self.layout not in ('token', 'legacy'):
      raise ValueError(
        f"layout={self.layout!r} is not one of 'token' and 'legacy'"
      )
    towers.check_vqgan(self)

  @property
  def boundaries(self) -> tuple[int, ...]:
    """All tokens only, or every length."""
    first = 1 if self.prefixes == 'any' else self.tokens
    return tuple(range(first, self.tokens + 1))

  @property
  def condition_shape(self) -> tuple[int, ...] | None:
    """[M, features] of a text, if the decoder reads one."""
    if not self.text_tokens:
      return None
    return (self.text_tokens, self.text_features)

  def build(self, *, dtype: Any = jnp.float32) -> TiTokTokenizer:
    """Makes the module."""
    return TiTokTokenizer(self, dtype=dtype)


def gather_tokens(latents: Array, layout: Layout) -> Array:
  """What each token is made of.

  Args:
    latents: [B, N, D], the encoder's output at the latents.
    layout: 'token' gives them as they are; 'legacy' reads the same numbers as
      [B, D, N]: feature c of token n is number c N + n of the N D.

  Returns:
    [B, N, D].
  """
  if layout == 'token':
    return latents
  batch, tokens, features = latents.shape
  return jnp.swapaxes(latents.reshape(batch, features, tokens), 1, 2)


@struct.dataclass
class CodePrediction:
  """What the training on a VQGAN's codes needs of a batch.

  Attributes:
    logits: float32 [B, h, h, V], of the VQGAN's codes.
    quantized: the bottleneck's output and losses.
  """

  logits: Array
  quantized: quantize.Quantized


class TiTokTokenizer(painters.PaintedTokenizer):
  """Transformers around a row of tokens, and a head that paints."""

  config: TiTokConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.encoder = Encoder(c, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.decoder = Decoder(c, dtype=self.dtype)
    self.painter = painters.painter(c, dtype=self.dtype)

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, .] into what is quantised, [B, N, .]."""
    return self.encoder(images)

  def quantize(
    self,
    latents: Array,
    length: Array,
    mask: Array | None = None,
    *,
    rng: Array | None = None,
  ) -> quantize.Quantized:
    """Quantises latents [B, N, .].

    Args:
      latents: of `latents`.
      length: tokens beyond it count too (as in One-D-Piece's training): only
        the decoder does not see them.
      mask: bool [B], False for images that are padding.
      rng: draws continuous tokens; None takes their means.
    """
    del length
    if mask is not None:
      mask = jnp.broadcast_to(mask[:, None], latents.shape[:2])
    options = {'rng': rng} if self.config.continuous else {}
    return self.quantizer(latents.astype(jnp.float32), mask=mask, **options)

  def render_embeddings(
    self, embeddings: Array, length: Array, condition: Array | None = None
  ) -> Array:
    """Decodes the first `length` [B] of embeddings [B, N, C]."""
    return self.paint(self.decoder(embeddings, length, condition))

  def predict(
    self,
    images: Array,
    length: Array,
    *,
    mask: Array | None = None,
    rng: Array | None = None,
  ) -> CodePrediction:
    """The training pass up to the VQGAN's codes: nothing is painted.

    Args:
      images: [B, H, W, .] float32 in [-1, 1].
      length: int32 [B], tokens that the decoder may see.
      mask: bool [B], False for images that are padding.
      rng: draws continuous tokens; None takes their means.

    Raises:
      UserError: if the decoder gives pixels, or reads a text.
    """
    self.check_images(images)
    self.check_condition(None, images.shape[0])
    if self.config.vqgan is None:
      raise errors.UserError(
        'the decoder of this tokenizer gives pixels, no codes of a VQGAN; take '
        'a config with `vqgan`'
      )
    quantized = self.quantize(self.latents(images), length, mask, rng=rng)
    patches = self.decoder(quantized.embeddings, length, None)
    return CodePrediction(
      logits=self.painter.logits(patches), quantized=quantized
    )


class Encoder(linen.Module):
  """Images to what the bottleneck quantises."""

  config: TiTokConfig
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, images: Array) -> Array:
    """Maps images [B, H, W, .] in [-1, 1] to [B, N, .]."""
    c = self.config
    parts = Parts(c.encoder, self.dtype)
    images = ((images + 1) / 2).astype(self.dtype)
    x = nn.patchify(images, c.patch).reshape(images.shape[0], c.grid**2, -1)
    x = parts.dense(c.encoder.width, 'patch_embed')(x)
    x = jnp.concatenate([repeat(parts.table(1, 'class_token')(), x), x], 1)
    x = x + parts.table(c.grid**2 + 1, 'positions')()[None]
    latents = parts.table(c.tokens, 'latent_tokens')()
    latents = latents + parts.table(c.tokens, 'latent_positions')()
    x = jnp.concatenate([x, repeat(latents, x)], axis=1)
    x = parts.norm('norm_in')(x)
    x, _ = parts.stack('stack')(x)
    x = parts.norm('norm_out')(x[:, -c.tokens :])
    x = gather_tokens(x, c.layout)
    return parts.dense(c.quantizer.input_dim, 'to_code')(x)


class Decoder(linen.Module):
  """Tokens to features of patches."""

  config: TiTokConfig
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(
    self, embeddings: Array, length: Array, condition: Array | None
  ) -> Array:
    """Maps embeddings [B, N, C], the first `length` [B], to [B, h, h, D]."""
    c = self.config
    parts = Parts(c.decoder, self.dtype)
    tokens = embeddings.astype(self.dtype)
    tokens = parts.dense(c.decoder.width, 'from_code')(tokens)
    slots = tokens.shape[1]
    positions = parts.table(c.tokens, 'latent_positions')(slice(slots))
    tokens = tokens + positions[None]
    row = [repeat(parts.canvas(c.grid**2), tokens), tokens]
    seen = lengths_lib.prefix_mask(length, slots)
    if condition is not None:
      text = parts.dense(c.decoder.width, 'text')(condition.astype(self.dtype))
      positions = parts.table(c.text_tokens, 'text_positions')()
      row.append(text + positions[None])
    around = ((0, 0), (c.grid**2 + 1, c.text_tokens))
    seen = jnp.pad(seen, around, constant_values=True)
    x = parts.norm('norm_in')(jnp.concatenate(row, axis=1))
    x, _ = parts.stack('stack')(x, mask=seen[:, None, None])
    x = parts.norm('norm_out')(x[:, 1 : c.grid**2 + 1])
    return x.reshape(x.shape[0], c.grid, c.grid, -1)
