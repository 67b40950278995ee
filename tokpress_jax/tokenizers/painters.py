"""Heads that paint an image from the features of its patches.

Dimension letters: B batch, H rows, W columns, h patches a side, D model
features, V codes of a VQGAN.
"""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.tokenizers import maskgit_vqgan, vectors

Array = jax.Array


def painter(config: Any, *, dtype: Any = jnp.float32) -> linen.Module:
  """Makes the head that a tokenizer's config asks for.

  Args:
    config: with `vqgan`, the network that paints, or None for pixels; `decoder`
      says D.
    dtype: of the arithmetic.
  """
  make = PixelPainter if config.vqgan is None else CodePainter
  return make(config, dtype=dtype)


class PaintedTokenizer(vectors.VectorTokenizer):
  """Base of tokenizers whose decoder gives features that a painter paints.

  A subclass sets up `self.painter` beside `self.quantizer`, and writes
  `render_embeddings`.
  """

  @property
  def last_layer(self) -> tuple[str, ...]:  # type: ignore[override]
    """Where the layer that gives pixels lies, see `Tokenizer.last_layer`."""
    inside = () if self.config.vqgan is None else ('decoder',)
    return ('painter', *inside, 'conv_out')

  def paint(self, patches: Array) -> Array:
    """Paints features of patches [B, h, h, D]: float32 [B, H, W, .]."""
    return 2 * self.painter(patches).astype(jnp.float32) - 1


class PixelPainter(linen.Module):
  """Each patch gives its pixels; one 3x3 convolution smooths their seams."""

  config: Any
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps patches [B, h, h, D] to images [B, H, W, .] in [0, 1]."""
    c = self.config
    features = c.patch**2 * c.channels
    x = linen.Dense(features, dtype=self.dtype, name='project')(x)
    x = nn.unpatchify(x, c.patch)
    return nn.Conv(c.channels, dtype=self.dtype, name='conv_out')(x)


class CodePainter(linen.Module):
  """Each patch gives logits of VQGAN codes; their mixture is painted."""

  config: Any
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    vqgan = c.vqgan
    assert vqgan is not None  # Else there is nothing to paint with.
    size = (vqgan.codebook_size, vqgan.quantizer.dim)
    self.project = linen.Dense(2 * c.decoder.width, dtype=self.dtype)
    self.to_logits = linen.Dense(vqgan.codebook_size, dtype=self.dtype)
    self.codebook = self.param(
      'codebook', linen.initializers.normal(vqgan.quantizer.dim**-0.5), size
    )
    self.decoder = maskgit_vqgan.Decoder(
      vqgan.convolutions, vqgan.channels, dtype=self.dtype
    )

  def logits(self, x: Array) -> Array:
    """Maps patches [B, h, h, D] to logits [B, h, h, V], float32."""
    x = jnp.tanh(self.project(x))
    return self.to_logits(x).astype(jnp.float32)

  def __call__(self, x: Array) -> Array:
    """Maps patches [B, h, h, D] to images [B, H, W, .] in [0, 1]."""
    mixed = jnp.einsum(
      'bhwv,vc->bhwc',
      jax.nn.softmax(self.logits(x)),
      self.codebook,
      precision=jax.lax.Precision.HIGHEST,
    )
    return self.decoder(mixed.astype(self.dtype))
