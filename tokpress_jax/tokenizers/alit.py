"""ALIT: an image is read again and again, each time with more latents.

Duggal et al., "Adaptive length image tokenization via recurrent allocation"
(2024, arXiv 2411.02393): one encoder runs in rounds. Each adds latents to the
row and rewrites all of it; then the decoder predicts the VQGAN's codes from the
latents so far, and the image tokens that this explains already become mask
tokens, so that the next round attends to the rest.

Which explained tokens are masked is drawn, in the official code when encoding
too. Here the draws are those of `rng`, a key or one for each image; without it
they are those of one fixed key, so that an image has always the same codes.

Dimension letters: B batch, R rounds, M latents of a round, N = R M, h patches a
side, D model features, C code features, V codes of the VQGAN.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import quantize
from tokpress_jax.quantize import base as quantize_base
from tokpress_jax.tokenizers import base, maskgit_vqgan, painters, towers
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.towers import Parts, TowerConfig, repeat

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ALITConfig(base.TokenizerConfig):
  """A recurrent tokenizer; the defaults are ALIT-small's.

  Attributes:
    rounds: R.
    tokens: M, latents that each round adds.
    encoder: its size.
    decoder: its size.
    quantizer: the bottleneck; a `PlainConfig` gives continuous tokens.
    explained: the probability of the true code from which on an image token may
      be masked.
    vqgan: its features are read, its codes predicted and it paints.
  """

  rounds: int = 8
  tokens: int = 32
  encoder: TowerConfig = TowerConfig(width=1024, depth=8, heads=8)
  decoder: TowerConfig = TowerConfig(width=1024, depth=8, heads=8)
  quantizer: quantize.VQConfig | quantize.PlainConfig = quantize.VQConfig(
    codebook_size=4096, dim=12, distance='cosine'
  )
  explained: float = 0.55
  vqgan: maskgit_vqgan.MaskGITVQGANConfig = maskgit_vqgan.MaskGITVQGANConfig()

  def __post_init__(self):
    super().__post_init__()
    if self.rounds < 1 or self.tokens < 1:
      raise ValueError(
        f'rounds={self.rounds} and tokens={self.tokens} must be at least 1'
      )
    towers.check_vqgan(self)

  @property
  def boundaries(self) -> tuple[int, ...]:
    """M, 2 M, ..., R M."""
    return tuple(self.tokens * (i + 1) for i in range(self.rounds))

  @property
  def nested(self) -> bool:
    """Each round rewrites all tokens."""
    return False

  def build(self, *, dtype: Any = jnp.float32) -> ALITTokenizer:
    """Makes the module."""
    return ALITTokenizer(self, dtype=dtype)


@struct.dataclass
class Round:
  """What one round gives.

  Attributes:
    latents: [B, n, .], what is quantised, n = M, 2 M, ...
    quantized: of these.
    logits: float32 [B, h, h, V], of the VQGAN's codes.
    masked: bool [B, h^2], image tokens that this round replaced.
  """

  latents: Array
  quantized: quantize.Quantized
  logits: Array
  masked: Array


class ALITTokenizer(painters.PaintedTokenizer):
  """One encoder in rounds, and a decoder that paints through a VQGAN."""

  config: ALITConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.image_tokens = towers.ImageTokens(c, dtype=self.dtype)
    self.encoder = Encoder(c, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.decoder = Decoder(c, dtype=self.dtype)
    self.painter = painters.CodePainter(c, dtype=self.dtype)

  def tokens_of(self, images: Array) -> tuple[Array, Array]:
    """Image tokens [B, h^2, D] of unit length; true codes int32 [B, h^2]."""
    patches, features = self.image_tokens(images)
    assert features is not None  # There is always a VQGAN.
    codes = quantize.nearest(features, self.painter.codebook)
    tokens = jnp.concatenate([features.astype(patches.dtype), patches], axis=-1)
    return quantize.normalize(tokens), codes

  def base_codes(self, images: Array) -> Array:
    """The VQGAN's codes of images [B, H, W, .]: int32 [B, h, h]."""
    grid = self.config.grid
    return self.tokens_of(images)[1].reshape(-1, grid, grid)

  def draws(self, rng: Array | None, batch: int) -> Array:
    """Uniform numbers [B, R, h^2] that decide what is masked."""
    keys = base.keys_for(rng, batch)
    shape = (self.config.rounds, self.config.grid**2)
    return jax.vmap(lambda key: jax.random.uniform(key, shape))(keys)

  def run(
    self,
    images: Array,
    uniform: Array,
    *,
    codes: Array | None = None,
    mask: Array | None = None,
  ) -> list[Round]:
    """Runs all rounds.

    Args:
      images: [B, H, W, .] float32 in [-1, 1].
      uniform: [B, R, h^2], of `draws`.
      codes: int32 [B, h, h], the true codes where they are known better than
        this module's `dtype` tells them; those of `tokens_of` if None.
      mask: bool [B], False for images that are padding.
    """
    c = self.config
    tokens, found_codes = self.tokens_of(images)
    if codes is None:
      codes = found_codes
    codes = codes.reshape(found_codes.shape)
    x = self.encoder.start(tokens)
    found = []
    for i in range(c.rounds):
      x, latents = self.encoder.read(x)
      seen = None
      if mask is not None:
        seen = jnp.broadcast_to(mask[:, None], latents.shape[:2])
      quantized = self.quantizer(latents.astype(jnp.float32), mask=seen)
      length = jnp.full(images.shape[:1], latents.shape[1], jnp.int32)
      patches = self.decoder(quantized.embeddings, length)
      logits = self.painter.logits(patches)
      flat = jax.nn.softmax(logits).reshape(*codes.shape, -1)
      chance = jnp.take_along_axis(flat, codes[..., None], axis=-1)[..., 0]
      masked = (uniform[:, i] < chance) & (chance >= c.explained)
      found.append(Round(latents, quantized, logits, masked))
      if i + 1 < c.rounds:
        x = self.encoder.grow(x, masked, i + 1)
    return found

  def reader(
    self, images: Array, rng: Array | None = None
  ) -> Callable[[Array], quantize.Quantized]:
    """See `Tokenizer.reader`; all rounds are run once, a length picks one."""
    c = self.config
    rounds = self.run(images, self.draws(rng, images.shape[0]))

    def stack(parts: list[Array]) -> Array:
      widen = lambda x: jnp.pad(
        x, ((0, 0), (0, c.num_tokens - x.shape[1]), (0, 0))
      )
      return jnp.stack([widen(x) for x in parts], axis=1)

    vectors = stack([r.quantized.embeddings for r in rounds])
    codes = None
    if not c.continuous:
      codes = stack([r.quantized.codes for r in rounds])

    def read(length: Array) -> quantize.Quantized:
      index = (length // c.tokens - 1)[:, None, None, None]
      pick = lambda x: jnp.take_along_axis(x, index, axis=1)[:, 0]
      return quantize.Quantized(
        codes=None if codes is None else pick(codes),
        embeddings=pick(vectors),
        losses={},
      )

    return read

  def _check_draws(self, rng: Array | None) -> None:
    """A key is welcome: it decides what is masked."""

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes the first `length` [B] of embeddings [B, n, C]."""
    return self.paint(self.decoder(embeddings, length))

  def reconstruct(  # type: ignore[override]
    self,
    images: Array,
    length: Array,
    *,
    mask: Array | None = None,
    rng: Array | None = None,
  ) -> base.Reconstruction:
    """See `Tokenizer.reconstruct`; `rng` as in `encode`.

    The losses of the bottleneck and its statistics are means and sums over the
    rounds.
    """
    self.check_images(images)
    c = self.config
    rounds = self.run(images, self.draws(rng, images.shape[0]), mask=mask)
    widen = lambda x: jnp.pad(
      x, ((0, 0), (0, c.num_tokens - x.shape[1]), (0, 0))
    )
    index = (length // c.tokens - 1)[:, None, None, None]
    pick = lambda parts: jnp.take_along_axis(
      jnp.stack([widen(x) for x in parts], axis=1), index, axis=1
    )[:, 0]
    vectors = pick([r.quantized.embeddings for r in rounds])
    codes = None
    if not c.continuous:
      codes = pick([r.quantized.codes for r in rounds])
    added = quantize_base.together(*(r.quantized for r in rounds))
    return base.Reconstruction(
      images=self.render_embeddings(vectors, length),
      quantized=quantize.Quantized(
        codes=codes,
        embeddings=vectors,
        losses=jax.tree.map(lambda x: x / c.rounds, added.losses),
        stats=added.stats,
      ),
    )


class Encoder(linen.Module):
  """Image tokens and latents, rewritten in each round."""

  config: ALITConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    parts = Parts(c.encoder, self.dtype)
    unnamed: Any = None
    self.class_token = parts.table(1, unnamed)
    self.positions = parts.table(c.grid**2 + 1, unnamed)
    self.mask_token = parts.table(1, unnamed)
    self.latent_tokens = parts.table(c.tokens, unnamed)
    self.latent_positions = parts.table(c.tokens, unnamed)
    self.rounds = parts.table(c.rounds * c.tokens, unnamed)
    self.norm_in = parts.norm(unnamed)
    self.norm_again = parts.norm(unnamed)
    self.norm_out = parts.norm(unnamed)
    self.stack = parts.stack(unnamed)
    self.to_code = parts.dense(c.quantizer.input_dim, unnamed)

  def _fresh(self, i: int, like: Array) -> Array:
    """The latents that round i (from 0) adds: [B, M, D]."""
    m = self.config.tokens
    table = self.latent_tokens() + self.latent_positions()
    return repeat(table + self.rounds(slice(i * m, (i + 1) * m)), like)

  def start(self, tokens: Array) -> Array:
    """The row of the first round, of image tokens [B, h^2, D]."""
    x = jnp.concatenate([repeat(self.class_token(), tokens), tokens], axis=1)
    x = x + self.positions()[None]
    return self.norm_in(jnp.concatenate([x, self._fresh(0, x)], axis=1))

  def read(self, x: Array) -> tuple[Array, Array]:
    """Runs the transformer: the row, and what its latents are quantised of."""
    x, _ = self.stack(x)
    latents = x[:, 1 + self.config.grid**2 :]
    return x, self.to_code(self.norm_out(latents))

  def grow(self, x: Array, masked: Array, i: int) -> Array:
    """The row of round i: explained image tokens masked, latents added."""
    stop = 1 + self.config.grid**2
    hidden = self.mask_token() + self.positions(slice(1, stop))
    image = jnp.where(masked[..., None], hidden[None], x[:, 1:stop])
    row = [x[:, :1], image, x[:, stop:], self._fresh(i, x)]
    return self.norm_again(jnp.concatenate(row, axis=1))


class Decoder(linen.Module):
  """Tokens to features of patches."""

  config: ALITConfig
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, embeddings: Array, length: Array) -> Array:
    """Maps embeddings [B, n, C], the first `length` [B], to [B, h, h, D]."""
    c = self.config
    parts = Parts(c.decoder, self.dtype)
    tokens = parts.dense(c.decoder.width, 'from_code')(
      embeddings.astype(self.dtype)
    )
    slots = tokens.shape[1]
    table = parts.table(c.num_tokens, 'latent_positions')
    tokens = tokens + table(slice(slots))[None]
    canvas = repeat(parts.canvas(c.grid**2), tokens)
    x = jnp.concatenate([canvas, tokens], axis=1)
    seen = lengths_lib.prefix_mask(length, slots)
    seen = jnp.pad(seen, ((0, 0), (c.grid**2 + 1, 0)), constant_values=True)
    x, _ = parts.stack('stack')(
      parts.norm('norm_in')(x), mask=seen[:, None, None]
    )
    x = parts.norm('norm_out')(x[:, 1 : c.grid**2 + 1])
    return x.reshape(x.shape[0], c.grid, c.grid, -1)
