"""KARL: one pass that says how many tokens an image needs for a loss.

Duggal et al., "Single-pass adaptive image tokenization for minimum program
search" (2025, arXiv 2507.07995): the encoder is told which reconstruction loss
is good enough, and says of each of its latents whether it can be spared
(halts). The decoder does not see those that halt. `Halting` asks for a loss;
other policies encode with so many latents and ask for the smallest loss.

Dimension letters: B batch, N latents, h patches a side, D model features, C
code features, Q codes per token, K bins of the loss, V codes of a VQGAN.

Where it departs from the official code: pixels are in [-1, 1] here (losses are
means of |x - y| of pixels in [0, 1], as there); at least one token stays, the
one that halts least, where there an image may have none; and the tables of the
bins start as noise, not as constants that the next norm makes zero.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import quantize, types
from tokpress_jax.tokenizers import base, maskgit_vqgan, painters, towers
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.towers import (
  Parts,
  SlotDense,
  TowerConfig,
  repeat,
)

Array = jax.Array

# fmt: off
BINS = (
  0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.09, 0.1, 0.12, 0.14, 0.16,
  0.18, 0.2, 0.24, 0.28, 0.32, 0.38,
)
# fmt: on


@dataclasses.dataclass(frozen=True, kw_only=True)
class KARLConfig(base.TokenizerConfig):
  """A tokenizer that halts; the defaults are KARL-small's.

  Attributes:
    tokens: N, the latents of an encoding.
    slots: rows of the latents' tables, at least N.
    encoder: its size.
    decoder: its size.
    quantizer: the bottleneck; a `PlainConfig` gives continuous tokens.
    bins: the losses that the encoder may be told, rising; another loss is
      rounded up to one.
    halting_width: features inside the layer that halts.
    places: rows and columns of the tables of positions, read at the nearest
      places; at least h.
    vqgan: the encoder reads this network's features, the decoder predicts its
      codes, and it paints; None: patches and pixels only.
    spread: standard deviation of the tables at the start; D ** -0.5 if None.
    projection: from features to codes and back: 'shared' by all slots, or one
      for each 'slot', with which a small model learns sooner.
  """

  tokens: int = 256
  slots: int = 512
  encoder: TowerConfig = TowerConfig(width=1024, depth=8, heads=8)
  decoder: TowerConfig = TowerConfig(width=1024, depth=8, heads=8)
  quantizer: quantize.VQConfig | quantize.FSQConfig | quantize.PlainConfig = (
    quantize.VQConfig(codebook_size=4096, dim=12, distance='cosine')
  )
  bins: tuple[float, ...] = BINS
  halting_width: int = 512
  places: int = 64
  vqgan: maskgit_vqgan.MaskGITVQGANConfig | None = (
    maskgit_vqgan.MaskGITVQGANConfig()
  )
  spread: float | None = None
  projection: Literal['shared', 'slot'] = 'shared'

  def __post_init__(self):
    super().__post_init__()
    if not 1 <= self.tokens <= self.slots:
      raise ValueError(
        'tokens must be at least 1 and at most slots, got '
        f'tokens={self.tokens} and slots={self.slots}'
      )
    if self.places < self.grid:
      raise ValueError(
        f'places={self.places} are fewer than the {self.grid} patches a side; '
        f'set places to {self.grid} or more'
      )
    rising = all(a < b for a, b in zip(self.bins, self.bins[1:], strict=False))
    if not self.bins or self.bins[0] <= 0 or not rising:
      raise ValueError(
        f'bins must be losses above 0 that rise, got {self.bins}'
      )
    if self.projection not in ('shared', 'slot'):
      raise ValueError(
        f"projection={self.projection!r} is not one of 'shared' and 'slot'"
      )
    towers.check_vqgan(self)

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Every length from 1 to N is legal."""
    return tuple(range(1, self.tokens + 1))

  @property
  def nested(self) -> bool:
    """Fewer latents are encoded anew, and say more each."""
    return False

  @property
  def selects(self) -> bool:
    """Any latent may halt."""
    return True

  def bins_of(self, target: Any, batch: int) -> Array:
    """The bins of losses, int32 [B].

    Args:
      target: a loss, or one for each image [B]; the smallest bin at or above
        it is taken, the last if there is none.
      batch: B.
    """
    bins = jnp.asarray(self.bins, jnp.float32)
    target = jnp.asarray(target, jnp.float32)
    index = jnp.minimum(jnp.searchsorted(bins, target), len(bins) - 1)
    return jnp.broadcast_to(index.astype(jnp.int32), (batch,))

  def build(self, *, dtype: Any = jnp.float32) -> KARLTokenizer:
    """Makes the module."""
    return KARLTokenizer(self, dtype=dtype)


@struct.dataclass
class Reading:
  """What the encoder says of a batch.

  Attributes:
    latents: [B, N, .], what is quantised.
    halting: float32 [B, N], logits: a latent can be spared.
  """

  latents: Array
  halting: Array


@struct.dataclass
class Trial:
  """One pass of the training.

  Attributes:
    images: [B, H, W, .] in about [-1, 1].
    logits: float32 [B, h, h, V] of the VQGAN's codes, or None.
    halting: float32 [B, N], logits.
    kept: bool [B, N], what the decoder saw.
    quantized: the bottleneck's output and losses.
  """

  images: Array
  logits: Array | None
  halting: Array
  kept: Array
  quantized: quantize.Quantized


class KARLTokenizer(painters.PaintedTokenizer):
  """Transformers around a row of latents that may halt."""

  config: KARLConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.image_tokens = towers.ImageTokens(c, dtype=self.dtype)
    self.encoder = Encoder(c, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.decoder = Decoder(c, dtype=self.dtype)
    self.painter = painters.painter(c, dtype=self.dtype)

  def read(self, images: Array, length: Array, bins: Array) -> Reading:
    """Encodes images with the first `length` [B] latents.

    Args:
      images: [B, H, W, .] float32 in [-1, 1].
      length: int32 [B].
      bins: int32 [B], which loss is asked for, of `bins_of`.
    """
    return self.encoder(self.tokens_of(images), length, bins)

  def tokens_of(self, images: Array) -> Array:
    """What the encoder reads of images: [B, h^2, D]."""
    patches, features = self.image_tokens(images)
    if features is None:
      return patches
    return jnp.concatenate([patches, features.astype(patches.dtype)], axis=-1)

  def base_codes(self, images: Array) -> Array:
    """The VQGAN's codes of images [B, H, W, .]: int32 [B, h, h]."""
    _, features = self.image_tokens(images)
    assert features is not None  # Else there is no VQGAN.
    grid = self.config.grid
    codes = quantize.nearest(features, self.painter.codebook)
    return codes.reshape(-1, grid, grid)

  def reader(
    self, images: Array, rng: Array | None = None
  ) -> Callable[[Array], quantize.Quantized]:
    """See `Tokenizer.reader`; the smallest loss is asked for."""
    del rng  # Nothing is drawn.
    tokens = self.tokens_of(images)
    first = jnp.zeros(images.shape[:1], jnp.int32)

    def read(length: Array) -> quantize.Quantized:
      reading = self.encoder(tokens, length, first)
      return self.quantize(reading.latents, length)

    return read

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises latents [B, N, .]; those beyond the length do not count."""
    seen = lengths_lib.prefix_mask(length, latents.shape[1])
    if mask is not None:
      seen = seen & mask[:, None]
    return self.quantizer(latents.astype(jnp.float32), mask=seen)

  def encode(
    self,
    images: Array,
    *,
    policy: lengths_lib.Policy | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
  ) -> types.Encoded:
    """See `Tokenizer.encode`; the policy may be `Halting`.

    The tokens that `Halting` keeps are moved to the front in their order, and
    `positions` says their slots.
    """
    if not isinstance(policy, lengths_lib.Halting):
      return super().encode(images, policy=policy, condition=condition, rng=rng)
    self.check_images(images)
    self._check_draws(rng)
    c, batch = self.config, images.shape[0]
    lengths_lib.check_target(policy.target, batch, c.bins)
    whole = jnp.full((batch,), c.tokens, jnp.int32)
    reading = self.read(images, whole, c.bins_of(policy.target, batch))
    kept = keep(reading.halting, policy.threshold)
    order = jnp.argsort(~kept, axis=1, stable=True).astype(jnp.int32)
    length = jnp.sum(kept, axis=1, dtype=jnp.int32)
    out = self.quantize(reading.latents, whole)
    return self._encoded(images, out, length, order[..., None])

  def render_embeddings(  # type: ignore[override]
    self, embeddings: Array, length: Array, positions: Array
  ) -> Array:
    """Decodes the first `length` [B] of embeddings [B, n, C] of these slots."""
    seen = lengths_lib.prefix_mask(length, embeddings.shape[1])
    return self.paint(self.decoder(embeddings, seen, positions))

  def try_out(
    self,
    images: Array,
    length: Array,
    *,
    bins: Array,
    threshold: float = 1.0,
    mask: Array | None = None,
  ) -> Trial:
    """One pass of the training, differentiable.

    Args:
      images: [B, H, W, .] float32 in [-1, 1].
      length: int32 [B], latents to encode with.
      bins: int32 [B], which loss is asked for.
      threshold: the decoder does not see latents of a higher chance to halt; 1
        shows it all.
      mask: bool [B], False for images that are padding.
    """
    reading = self.read(images, length, bins)
    quantized = self.quantize(reading.latents, length, mask)
    seen = lengths_lib.prefix_mask(length, self.config.tokens)
    seen = seen & (jax.nn.sigmoid(reading.halting) <= threshold)
    slots = jnp.arange(self.config.tokens)[None]
    patches = self.decoder(quantized.embeddings, seen, slots)
    logits = None
    if self.config.vqgan is not None:
      logits = self.painter.logits(patches)
    return Trial(
      images=self.paint(patches),
      logits=logits,
      halting=reading.halting,
      kept=seen,
      quantized=quantized,
    )

  def reconstruct(  # type: ignore[override]
    self, images: Array, length: Array, *, mask: Array | None = None
  ) -> base.Reconstruction:
    """See `Tokenizer.reconstruct`; the smallest loss is asked for."""
    self.check_images(images)
    bins = jnp.zeros(length.shape, jnp.int32)
    out = self.try_out(images, length, bins=bins, mask=mask)
    return base.Reconstruction(images=out.images, quantized=out.quantized)


def keep(halting: Array, threshold: float | Array) -> Array:
  """Which latents stay, at least one.

  Args:
    halting: [B, N], logits.
    threshold: of their sigmoid; those above it halt. A number or [B].

  Returns:
    bool [B, N].
  """
  threshold = jnp.asarray(threshold, jnp.float32)
  threshold = threshold[:, None] if threshold.ndim else threshold[None, None]
  kept = jax.nn.sigmoid(halting) <= threshold
  least = jnp.argmin(halting, axis=1)[:, None]
  return kept | (jnp.arange(halting.shape[1])[None] == least)


class Encoder(linen.Module):
  """Tokens of an image and latents to what is quantised, and what halts."""

  config: KARLConfig
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, tokens: Array, length: Array, bins: Array) -> Reading:
    """Reads tokens [B, h^2, D] with `length` [B] latents for `bins` [B]."""
    c = self.config
    parts = Parts(c.encoder, self.dtype, c.spread)
    asked = parts.table(len(c.bins), 'targets')(bins)[:, None]
    x = tokens + parts.table(c.places**2, 'positions')(nearest(c))[None]
    latents = parts.table(c.slots, 'latent_tokens')(slice(c.tokens))
    x = jnp.concatenate([asked, x, repeat(latents, x)], axis=1)
    x = parts.norm('norm_in')(x)
    seen = lengths_lib.prefix_mask(length, c.tokens)
    seen = jnp.pad(seen, ((0, 0), (1 + c.grid**2, 0)), constant_values=True)
    x, _ = parts.stack('stack')(x, mask=seen[:, None, None])
    x = x[:, -c.tokens :]
    inside = parts.dense(c.halting_width, 'halting_in')
    halting = jnp.tanh(inside(parts.norm('norm_halting')(x)))
    halting = parts.dense(1, 'halting_out')(halting)[..., 0]
    x = parts.norm('norm_out')(x)
    to_code: Any
    if c.projection == 'slot':
      to_code = SlotDense(
        c.slots, c.quantizer.input_dim, dtype=self.dtype, name='to_code'
      )
    else:
      to_code = parts.dense(c.quantizer.input_dim, 'to_code')
    return Reading(
      latents=to_code(x),
      halting=halting.astype(jnp.float32),
    )


class Decoder(linen.Module):
  """Tokens to features of patches."""

  config: KARLConfig
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, embeddings: Array, seen: Array, positions: Array) -> Array:
    """Maps embeddings [B, n, C] to [B, h, h, D].

    Args:
      embeddings: [B, n, C].
      seen: bool [B, n], which of them count.
      positions: int32 [B or 1, n], their slots.
    """
    c = self.config
    parts = Parts(c.decoder, self.dtype, c.spread)
    tokens = embeddings.astype(self.dtype)
    if c.projection == 'slot':
      from_code = SlotDense(
        c.slots, c.decoder.width, dtype=self.dtype, name='from_code'
      )
      tokens = from_code(tokens, positions)
    else:
      tokens = parts.dense(c.decoder.width, 'from_code')(tokens)
    tokens = tokens + parts.table(c.slots, 'latent_positions')(positions)
    places = parts.table(c.places**2, 'positions')(nearest(c))
    canvas = parts.table(1, 'mask_token')() + places
    x = jnp.concatenate([repeat(canvas, tokens), tokens], axis=1)
    seen = jnp.pad(seen, ((0, 0), (c.grid**2, 0)), constant_values=True)
    x = parts.norm('norm_in')(x)
    x, _ = parts.stack('stack')(x, mask=seen[:, None, None])
    x = parts.norm('norm_out')(x[:, : c.grid**2])
    return x.reshape(x.shape[0], c.grid, c.grid, -1)


def nearest(config: KARLConfig) -> np.ndarray:
  """The places of h x h patches among `places` x `places`, int [h^2]."""
  rows = np.arange(config.grid) * config.places // config.grid
  return (rows[:, None] * config.places + rows[None]).reshape(-1)
