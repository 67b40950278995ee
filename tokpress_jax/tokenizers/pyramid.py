"""A pyramid of token maps per image, coarse to fine: what its methods share.

The bottleneck is VAR's multi-scale residual quantiser (Tian et al., arXiv
2404.02905). Legal lengths are the scales' ends: with random scale drop in
training every prefix of scales decodes. A method adds an encoder to a map and a
decoder of the summed map.

Dimension letters: B batch, h rows and columns of the finest map, C code
features, L tokens of all scales, l tokens of one scale, S scales.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from tokpress_jax import quantize
from tokpress_jax.tokenizers import base

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PyramidConfig(base.TokenizerConfig):
  """What every multi-scale tokenizer's config has.

  Attributes:
    quantizer: the bottleneck; its last scale is the encoder's map.
  """

  quantizer: quantize.MultiScaleVQConfig = quantize.MultiScaleVQConfig(
    vq=quantize.VQConfig(codebook_size=4096, dim=32)
  )

  def __post_init__(self):
    super().__post_init__()
    last = self.quantizer.grids[-1]
    if last != (self.grid, self.grid):
      raise ValueError(
        f'the last scale must be the patch grid, {self.grid} x {self.grid} '
        f'(image_size / patch), got {last[0]} x {last[1]}; end '
        'quantizer.scales with it'
      )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The scales' ends."""
    return self.quantizer.boundaries

  @property
  def scales(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return self.quantizer.grids

  @property
  def latent_dim(self) -> int:
    """C, features of the summed map."""
    return self.quantizer.dim


class PyramidTokenizer(base.Tokenizer):
  """Base of the multi-scale tokenizers.

  A subclass sets up `self.quantizer` and writes `latents` (images to a map) and
  `decode_map` (a summed map to images).
  """

  config: PyramidConfig

  @property
  def scales(self) -> tuple[tuple[int, int], ...]:
    """Rows and columns of each scale."""
    return self.config.scales

  @property
  def latent_dim(self) -> int:
    """C, features of the summed map."""
    return self.config.latent_dim

  def decode_map(self, total: Array) -> Array:
    """Decodes a summed map [B, h, h, C] to images [B, H, W, .], unclipped."""
    raise NotImplementedError

  def decode_total(self, total: Array) -> Array:
    """`decode_map`, clipped to [-1, 1]: float32 [B, H, W, .]."""
    return jnp.clip(self.decode_map(total).astype(jnp.float32), -1.0, 1.0)

  def quantize(
    self,
    latents: Array,
    length: Array,
    mask: Array | None = None,
    skipped: Array | None = None,
  ) -> quantize.Quantized:
    """Quantises maps [B, h, h, C] up to the scales within the length.

    Args:
      latents: [B, h, h, C].
      length: int32 [B].
      mask: bool [B], False for images that are padding.
      skipped: bool [B, S], scales that an image leaves out, if it has a finer
        one within its length.
    """
    keep = self._kept_scales(length)
    if skipped is not None:
      number = jnp.arange(len(self.scales))[None]  # [1, S]
      finest = number == keep[:, None] - 1
      keep = (number < keep[:, None]) & (~skipped | finest)
    return self.quantizer(latents, mask=mask, keep=keep)

  def render(self, codes: Array, length: Array) -> Array:
    """Decodes the scales of codes [B, L, 1] within the length [B]."""
    c = self.config
    keep = self._kept_scales(length)
    total = jnp.zeros((codes.shape[0], *c.scales[-1], c.latent_dim))
    start = 0
    for k, stop in enumerate(c.boundaries):
      more, _ = self.quantizer.accumulate(total, codes[:, start:stop], k)
      total = jnp.where((k < keep)[:, None, None, None], more, total)
      start = stop
    return self.decode_map(total)

  def reconstruct(
    self,
    images: Array,
    length: Array,
    *,
    mask: Array | None = None,
    skipped: Array | None = None,
  ) -> base.Reconstruction:
    """See `Tokenizer.reconstruct`, and `quantize` for `skipped`."""
    self.check_images(images)
    latents = self.latents(images)
    quantized = self.quantize(latents, length, mask, skipped)
    painted = self.decode_map(quantized.embeddings)
    return base.Reconstruction(images=painted, quantized=quantized)

  def next_inputs(self, codes: Array) -> Array:
    """What a generator reads at scales 2 to S, for teacher forcing.

    Args:
      codes: int32 [B, L, 1], of `encode`.

    Returns:
      float32 [B, L - l_1, C]: at each scale the sum of the scales before,
      shrunk to its grid.
    """
    if codes.ndim != 3 or codes.shape[2] != 1:
      raise ValueError(f'codes are int32 [B, L, 1], got {list(codes.shape)}')
    return self.quantizer.next_inputs(codes)

  def lookup(self, codes: Array, scale: int) -> Array:
    """The vectors of a scale's codes int32 [B, l, 1]: float32 [B, l, C]."""
    return self.quantizer.vectors(codes, scale)

  def mix(self, weights: Array, scale: int) -> Array:
    """Mixtures of a scale's vectors: [B, l, V] to float32 [B, l, C]."""
    return self.quantizer.mix(weights, scale)

  def accumulate(
    self, total: Array, embeddings: Array, scale: int
  ) -> tuple[Array, Array | None]:
    """See `MultiScaleVQ.accumulate_embeddings`."""
    return self.quantizer.accumulate_embeddings(total, embeddings, scale)

  def _kept_scales(self, length: Array) -> Array:
    """How many scales end within the length, int32 [B]."""
    ends = jnp.asarray(self.boundaries, jnp.int32)
    return jnp.sum(ends[None] <= length[:, None], axis=1)
