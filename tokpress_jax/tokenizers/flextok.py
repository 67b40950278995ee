"""FlexTok: registers that a rectified flow decodes, at any length.

Bachmann et al., "FlexTok: Resampling Images into 1D Token Sequences of Flexible
Length" (2025, arXiv 2502.13967), section 3: in an encoder, registers read the
patches of an autoencoder's latents, each seeing those before it; they are
quantised by FSQ; a decoder draws the latents by a rectified flow that reads
them. Registers beyond an image's length are replaced by a learned vector, in
training at random (nested dropout), so that every prefix decodes: the first
tokens say what is in the image, the rest where.

Without an autoencoder (`vae=None`) the flow is of pixels.

Dimension letters: B batch, N registers, P = h^2 patches, h patches a side, H
rows and W columns of the map that flows, C its channels, p side of a patch in
it, D model features, F code features.

What the released files do not say in their tensors, and where it is from: the
size of the latents' scaling and `max_timestep` are in the header of the file or
in config.json beside it (`flextok_keys.describe`). With the sizes here d18-d18
has 949.7M numbers with its autoencoder, as published (in GPSToken, arXiv
2509.01109, table 1). The two tables of sines are no parameters here.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import flow, quantize
from tokpress_jax.tokenizers import autoencoder_kl, base, flextok_network
from tokpress_jax.tokenizers.towers import TOWERS, TowerConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexTokConfig(base.TokenizerConfig):
  """A FlexTok; the defaults are the sizes of the released d12-d12.

  Attributes:
    patch: side of a patch in pixels; with an autoencoder a multiple of its own.
    tokens: N.
    encoder: its size; MLPs are gated SiLUs whatever its `activation`.
    decoder: likewise.
    quantizer: the bottleneck, F features.
    vae: the autoencoder in whose latents the flow is; None for pixels.
    null: what guidance puts in place of the tokens: a 'learned' vector, or
      'zero'.
    max_timestep: the time embedding turns by 1000 / max_timestep at time 1.
    steps: of the decoder's own sampler.
    guidance: of it; 1 asks the network once a step.
    rule: of it, 'plain' or 'projected'.
    gate_init: size of the decoder's gates at the start, relative to a usual
      draw; 0 is adaLN-zero. Short runs learn faster from open gates.
  """

  patch: int = 16
  tokens: int = 256
  encoder: TowerConfig = TOWERS['base']
  decoder: TowerConfig = TOWERS['base']
  quantizer: quantize.FSQConfig = quantize.FSQConfig(
    levels=(8, 8, 8, 5, 5, 5), form='lucidrains'
  )
  vae: autoencoder_kl.AutoencoderKLConfig | None = (
    autoencoder_kl.AutoencoderKLConfig()
  )
  null: Literal['learned', 'zero'] = 'learned'
  max_timestep: float = 1000.0
  steps: int = 20
  guidance: float = 7.5
  rule: flow.Rule = 'projected'
  gate_init: float = 0.0

  def __post_init__(self):
    super().__post_init__()
    if self.tokens < 1:
      raise ValueError(f'tokens must be at least 1, got {self.tokens}')
    if self.null not in ('learned', 'zero'):
      raise ValueError(f"null={self.null!r} is not one of 'learned' and 'zero'")
    for side, tower in (('encoder', self.encoder), ('decoder', self.decoder)):
      if tower.width % 4:
        raise ValueError(
          f'{side}.width must be divisible by 4 (sines and cosines of two '
          f'axes), got {tower.width}'
        )
    vae = self.vae
    if vae is None:
      return
    ours = (self.image_size, self.channels)
    if (vae.image_size, vae.channels) != ours or self.patch % vae.patch:
      raise ValueError(
        'the autoencoder takes the images of the tokenizer, and its patch '
        f'divides the own one: it has image_size={vae.image_size}, channels='
        f'{vae.channels}, patch={vae.patch} where the tokenizer has '
        f'{self.image_size}, {self.channels}, {self.patch}'
      )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Every length."""
    return tuple(range(1, self.tokens + 1))

  @property
  def draws(self) -> bool:
    """The decoder draws."""
    return True

  @property
  def sampler(self) -> flow.FlowSampler:
    """How it draws, unless `decode` is told otherwise."""
    guidance = None if self.guidance == 1 else self.guidance
    return flow.FlowSampler(steps=self.steps, guidance=guidance, rule=self.rule)

  @property
  def map_shape(self) -> tuple[int, int, int]:
    """(H, W, C) of what flows."""
    if self.vae is None:
      return (self.image_size, self.image_size, self.channels)
    return (self.vae.grid, self.vae.grid, self.vae.quantizer.dim)

  @property
  def map_patch(self) -> int:
    """Side of a patch in the map, p."""
    return self.patch if self.vae is None else self.patch // self.vae.patch

  def build(self, *, dtype: Any = jnp.float32) -> FlexTokTokenizer:
    """Makes the module."""
    return FlexTokTokenizer(self, dtype=dtype)


@struct.dataclass
class FlowPrediction:
  """What the training of the flow needs of a batch.

  Attributes:
    losses: float32 [B], squared error of the velocity.
    quantized: the bottleneck's output.
  """

  losses: Array
  quantized: quantize.Quantized


class FlexTokTokenizer(base.Tokenizer):
  """An encoder with registers, FSQ, and a flow that reads the registers."""

  config: FlexTokConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.encoder = flextok_network.Encoder(c, dtype=self.dtype)
    self.quantizer = c.quantizer.build()
    self.decoder = flextok_network.Decoder(c, dtype=self.dtype)
    if c.vae is not None:
      self.vae = c.vae.build(dtype=self.dtype)

  def to_map(self, images: Array) -> Array:
    """What flows: float32 [B, H, W, C] of images."""
    if self.config.vae is None:
      return images.astype(jnp.float32)
    return self.vae.to_map(images)

  def from_map(self, x: Array) -> Array:
    """The images of a map [B, H, W, C]."""
    return x if self.config.vae is None else self.vae.from_map(x)

  def latents(self, images: Array) -> Array:
    """Encodes images [B, ., ., .] into what is quantised, [B, N, F]."""
    return self.encoder(self.to_map(images))

  def quantize(
    self, latents: Array, length: Array, mask: Array | None = None
  ) -> quantize.Quantized:
    """Quantises latents [B, N, F]; tokens beyond the length count too."""
    del length
    if mask is not None:
      mask = jnp.broadcast_to(mask[:, None], latents.shape[:2])
    return self.quantizer(latents.astype(jnp.float32), mask=mask)

  def velocity(
    self,
    noised: Array,
    t: Array,
    vectors: Array,
    length: Array,
    *,
    without: Array | None = None,
  ) -> Array:
    """The network: which way a noised map moves.

    Args:
      noised: [B, H, W, C].
      t: float32 [B], 1 is noise.
      vectors: [B, N, F] of the tokens.
      length: int32 [B], tokens that are read.
      without: bool [B], images whose tokens are not read at all; None: none.

    Returns:
      float32 [B, H, W, C].
    """
    if without is None:
      without = jnp.zeros(noised.shape[:1], bool)
    return self.decoder(noised, t, vectors, length, without)

  def render(
    self,
    codes: Array,
    length: Array,
    *,
    rng: Array | None = None,
    sampler: flow.FlowSampler | None = None,
  ) -> Array:
    """Draws the images of the first `length` [B] of codes [B, N, 1].

    Args:
      codes: int32 [B, N, 1].
      length: int32 [B].
      rng: typed keys [B]: each image has noise of its own; see `decode`.
      sampler: how; the config's own if None.

    Returns:
      float32 [B, ., ., .].
    """
    vectors = self.quantizer.lookup(codes)
    noise = self.noise(base.keys_for(rng, codes.shape[0]))
    return self.draw(vectors, length, noise, sampler=sampler)

  def noise(self, keys: Array) -> Array:
    """What the flow starts from, [B, H, W, C], of a key for each image."""
    shape = self.config.map_shape
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

  def draw(
    self,
    vectors: Array,
    length: Array,
    noise: Array,
    *,
    sampler: flow.FlowSampler | None = None,
  ) -> Array:
    """As `render`, of vectors [B, N, F] and noise [B, H, W, C]."""
    sampler = sampler or self.config.sampler
    given = vectors.shape[1]
    length = jnp.minimum(length, given)
    slots = self.num_tokens - given
    vectors = jnp.pad(vectors, ((0, 0), (0, slots), (0, 0)))
    without = jnp.zeros(length.shape, bool)
    if sampler.guidance is not None:
      vectors, length = (jnp.concatenate([x, x]) for x in (vectors, length))
      without = jnp.concatenate([without, ~without])
    if self.is_initializing():
      # A scan makes no parameters.
      ones = jnp.ones(noise.shape[:1])
      rows = len(noise)
      x = self.decoder(noise, ones, vectors[:rows], length[:rows], ones < 0)
      return self.from_map(x)
    decoder, variables = self.decoder.unbind()

    def predict(x: Array, t: Array) -> Array:
      t = jnp.broadcast_to(t, x.shape[:1])
      out = decoder.apply(variables, x, t, vectors, length, without)
      return cast(Array, out)

    return self.from_map(flow.sample(sampler, predict, noise))

  def reconstruct(
    self, images: Array, length: Array, *, mask: Array | None = None
  ) -> base.Reconstruction:
    """Encodes and draws, from the noise that `decode` takes without a key.

    Training does not go through the drawing: see `predict`.

    Args:
      images: [B, ., ., .] float32 in [-1, 1].
      length: int32 [B].
      mask: bool [B], False for images that are padding.
    """
    self.check_images(images)
    quantized = self.quantize(self.latents(images), length, mask)
    noise = self.noise(base.keys_for(None, images.shape[0]))
    painted = self.draw(quantized.embeddings, length, noise)
    return base.Reconstruction(images=painted, quantized=quantized)

  def predict(
    self,
    images: Array,
    length: Array,
    *,
    t: Array,
    noise: Array,
    without: Array | None = None,
    mask: Array | None = None,
  ) -> FlowPrediction:
    """The training pass.

    Args:
      images: [B, ., ., .] float32 in [-1, 1].
      length: int32 [B], tokens that the decoder reads.
      t: float32 [B], times of the flow.
      noise: [B, H, W, C], standard normal.
      without: bool [B], images whose tokens are not read, for guidance.
      mask: bool [B], False for images that are padding.
    """
    self.check_images(images)
    clean = jax.lax.stop_gradient(self.to_map(images))
    quantized = self.quantize(self.encoder(clean), length, mask)
    noised = flow.interpolate(clean, noise, t)
    guess = self.velocity(
      noised, t, quantized.embeddings, length, without=without
    )
    losses = flow.velocity_losses(guess, clean, noise)
    return FlowPrediction(losses=losses, quantized=quantized)
