"""The autoencoder of latent diffusion: a grid of continuous tokens.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models"
(arXiv 2112.10752), section 3.1, in the shape that diffusers calls
AutoencoderKL: convolutions with attention in the middle, 8 pixels to a token. A
token is drawn from its own Gaussian, or is its mean; latents are given times a
scaling factor, which makes them about as large as standard normal noise.
FlexTok (arXiv 2502.13967) flows in the latents of one of 16 channels.

Dimension letters: B batch, H rows, W columns, h grid side, N = h^2 tokens, C
latent channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tokpress_jax import nn, quantize
from tokpress_jax.tokenizers import convolutional, vectors

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class AutoencoderKLConfig(convolutional.ConvolutionalConfig):
  """A latent diffusion autoencoder; the defaults are FlexTok's with C = 16.

  Attributes:
    quantizer: the bottleneck, of C features.
    scaling: what latents are multiplied by. It is no weight: each published
      autoencoder has a number of its own, which diffusers keeps in config.json.
  """

  patch: int = 8
  multipliers: tuple[int, ...] = (1, 2, 4, 4)
  quantizer: quantize.GaussianConfig = quantize.GaussianConfig(dim=16)
  scaling: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    if not self.scaling > 0:
      raise ValueError(f'scaling must be above 0, got {self.scaling}')

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The whole grid only."""
    return (self.grid**2,)

  def convolutions(self, more: int) -> nn.ConvConfig:
    """The convolutional network, with `more` residual blocks a level."""
    return self.network('middle', more=more)

  def build(self, *, dtype: Any = jnp.float32) -> AutoencoderKL:
    """Makes the module."""
    return AutoencoderKL(self, dtype=dtype)


class AutoencoderKL(vectors.VectorTokenizer):
  """Convolutions around a grid of Gaussians, in raster order."""

  last_layer: ClassVar[tuple[str, ...]] = ('decoder', 'conv_out')

  config: AutoencoderKLConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    dim = c.quantizer.dim
    self.encoder = nn.ConvEncoder(c.convolutions(0), 2 * dim, dtype=self.dtype)
    self.decoder = nn.ConvDecoder(
      c.convolutions(1), c.channels, dtype=self.dtype
    )
    self.pre_quant = nn.Conv(2 * dim, 1)
    self.post_quant = nn.Conv(dim, 1)
    self.quantizer = c.quantizer.build()

  def latents(self, images: Array) -> Array:
    """Encodes images [B, H, W, .] into moments [B, N, 2 C], float32."""
    x = self.encoder(images.astype(self.dtype)).astype(jnp.float32)
    x = self.pre_quant(x)
    return x.reshape(x.shape[0], -1, x.shape[-1])

  def quantize(
    self,
    latents: Array,
    length: Array,
    mask: Array | None = None,
    *,
    rng: Array | None = None,
  ) -> quantize.Quantized:
    """Draws scaled latents [B, N, C], or takes their means.

    Args:
      latents: moments of `latents`.
      length: that of the grid.
      mask: bool [B], False for images that are padding.
      rng: draws; None takes the means.
    """
    del length
    if mask is not None:
      mask = jnp.broadcast_to(mask[:, None], latents.shape[:2])
    out = self.quantizer(latents, mask=mask, rng=rng)
    return dataclasses.replace(
      out, embeddings=out.embeddings * self.config.scaling
    )

  def render_embeddings(self, embeddings: Array, length: Array) -> Array:
    """Decodes scaled latents [B, N, C]; the length is that of the grid."""
    del length
    grid = self.config.grid
    x = embeddings.astype(jnp.float32) / self.config.scaling
    x = self.post_quant(x.reshape(x.shape[0], grid, grid, -1))
    return self.decoder(x.astype(self.dtype)).astype(jnp.float32)

  def to_map(self, images: Array, rng: Array | None = None) -> Array:
    """Images [B, H, W, .] to a map of scaled latents [B, h, h, C]."""
    grid = self.config.grid
    whole = jnp.full(images.shape[:1], grid**2, jnp.int32)
    out = self.quantize(self.latents(images), whole, rng=rng)
    return out.embeddings.reshape(images.shape[0], grid, grid, -1)

  def from_map(self, latents: Array) -> Array:
    """A map of scaled latents [B, h, h, C] to images [B, H, W, .]."""
    grid = self.config.grid
    rows = latents.reshape(latents.shape[0], grid**2, -1)
    whole = jnp.full(rows.shape[:1], grid**2, jnp.int32)
    return self.render_embeddings(rows, whole)
