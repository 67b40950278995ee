"""Tokenizers whose decoder reads the vectors of codes, not the codes.

Dimension letters: B batch, H rows, W columns, C channels, N token slots, n of
them that are given, D features, Q codes per token.
"""

from __future__ import annotations

from typing import Any

import jax

from tokpress_jax.tokenizers import base

Array = jax.Array


class VectorTokenizer(base.Tokenizer):
  """Base of tokenizers that decode the vectors of their codes.

  A subclass writes `render_embeddings`.
  """

  def render(self, codes: Array, length: Array, **options: Any) -> Array:
    """Decodes the first `length` [B] of codes [B, n, Q], by their vectors."""
    vectors = self.quantizer.lookup(codes)
    return self.render_embeddings(vectors, length, **options)

  def reconstruct(
    self,
    images: Array,
    length: Array,
    *,
    mask: Array | None = None,
    condition: Array | None = None,
    rng: Array | None = None,
  ) -> base.Reconstruction:
    """See `Tokenizer.reconstruct`.

    Args:
      images: [B, H, W, C] float32 in [-1, 1].
      length: int32 [B], tokens that the decoder may see.
      mask: bool [B], False for images that are padding.
      condition: see `decode`.
      rng: see `encode`.

    Returns:
      Images and the bottleneck's losses.
    """
    self.check_images(images)
    options = self.check_condition(condition, images.shape[0])
    draws = {'rng': rng} if self.config.continuous else {}
    quantized = self.quantize(self.latents(images), length, mask, **draws)
    painted = self.render_embeddings(quantized.embeddings, length, **options)
    return base.Reconstruction(images=painted, quantized=quantized)
