"""What transformer tokenizers around a row of latents are built of.

TiTok's encoder and decoder (arXiv 2406.07550), KARL's and ALIT's have the same
blocks and the same tables beside them.

Dimension letters: B batch, T rows of a table, N latents, h patches a side, D
model features, F features of a VQGAN.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.tokenizers import maskgit_vqgan

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class TowerConfig:
  """Size of an encoder or a decoder.

  Attributes:
    width: D.
    depth: in layers.
    heads: of the attention.
    activation: of the MLPs, see `BlockConfig`.
  """

  width: int
  depth: int
  heads: int
  activation: nn.Activation = 'gelu'

  @property
  def stack(self) -> nn.StackConfig:
    """Its transformer."""
    block = nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      norm_eps=1e-5,
      activation=self.activation,
    )
    return nn.StackConfig(depth=self.depth, block=block)


TOWERS = {
  'small': TowerConfig(width=512, depth=8, heads=8),
  'base': TowerConfig(width=768, depth=12, heads=12),
  'large': TowerConfig(width=1024, depth=24, heads=16),
}


@dataclasses.dataclass(frozen=True)
class Parts:
  """Makes the layers of a tower, by name.

  Attributes:
    size: of the tower.
    dtype: of its arithmetic.
    std: of the tables at the start; D ** -0.5 if None.
  """

  size: TowerConfig
  dtype: Any
  std: float | None = None

  def table(self, length: int, name: str) -> nn.LearnedPositions:
    """A table [length, D]."""
    width = self.size.width
    std = width**-0.5 if self.std is None else self.std
    return nn.LearnedPositions(
      length, width, std=std, dtype=self.dtype, name=name
    )

  def dense(self, features: int, name: str) -> linen.Dense:
    """A linear layer."""
    return linen.Dense(features, dtype=self.dtype, name=name)

  def norm(self, name: str) -> nn.LayerNorm:
    """A layer norm."""
    return nn.LayerNorm(eps=1e-5, dtype=self.dtype, name=name)

  def stack(self, name: str) -> nn.Stack:
    """The transformer."""
    return nn.Stack(self.size.stack, dtype=self.dtype, name=name)

  def canvas(self, patches: int) -> Array:
    """What a decoder paints on, [1 + patches, D].

    A class token and a mask token for each patch, with their positions: tables
    'class_token', 'mask_token' and 'positions'.
    """
    mask = self.table(1, 'mask_token')()
    row = jnp.broadcast_to(mask, (patches, self.size.width))
    row = jnp.concatenate([self.table(1, 'class_token')(), row])
    return row + self.table(1 + patches, 'positions')()


class SlotDense(linen.Module):
  """A linear layer of its own for each token slot.

  A slot's code then enters the decoder in a subspace of its own, so that one
  averaging attention already tells slots apart; with one shared layer the
  content of all slots would fall together until training has separated them.

  Attributes:
    slots: N.
    features: of the output.
    dtype: of the product.
  """

  slots: int
  features: int
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array, slots: Array | None = None) -> Array:
    """Maps x [B, n, D] to [B, n, features].

    Args:
      x: tokens.
      slots: of the tokens, int32 [B or 1, n]; None for the first n.
    """
    kernel = self.param(
      'kernel',
      linen.initializers.lecun_normal(batch_axis=(0,)),
      (self.slots, x.shape[-1], self.features),
    )
    bias = self.param(
      'bias', linen.initializers.zeros, (self.slots, self.features)
    )
    if slots is not None:
      y = jnp.einsum('bnd,bndf->bnf', x, kernel[slots].astype(self.dtype))
      return y + bias[slots].astype(self.dtype)
    used = slice(x.shape[1])
    y = jnp.einsum('bnd,ndf->bnf', x, kernel[used].astype(self.dtype))
    return y + bias[used].astype(self.dtype)[None]


def repeat(table: Array, like: Array) -> Array:
  """A table [T, D] for each of the images of `like` [B, ...]."""
  return jnp.broadcast_to(table[None], (like.shape[0], *table.shape))


def check_vqgan(config: Any) -> None:
  """Raises ValueError unless a config's `vqgan` paints images of its sizes."""
  if config.vqgan is None:
    return
  same = ('image_size', 'channels', 'patch')
  ours = {name: getattr(config, name) for name in same}
  theirs = {name: getattr(config.vqgan, name) for name in same}
  if theirs != ours:
    raise ValueError(
      f'the VQGAN paints the images of the tokenizer, but has {theirs} where '
      f'the tokenizer has {ours}; set both alike'
    )


class ImageTokens(linen.Module):
  """Patches through a linear layer, and what a VQGAN makes of the image.

  Attributes:
    config: of the tokenizer; with `vqgan` a token's last F or first F features
      (the caller joins them) are its encoder's, before they are quantised.
    dtype: of the arithmetic.
  """

  config: Any
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    width = c.encoder.width
    if c.vqgan is not None:
      width -= c.vqgan.quantizer.dim
      self.vqgan = maskgit_vqgan.Encoder(
        c.vqgan.convolutions, c.vqgan.quantizer.dim, dtype=self.dtype
      )
    self.patch_embed = linen.Dense(width, dtype=self.dtype)

  def __call__(self, images: Array) -> tuple[Array, Array | None]:
    """Maps images [B, H, W, .] in [-1, 1] to tokens.

    Returns:
      [B, h^2, D - F] of the patches; [B, h^2, F] of the VQGAN, or None.
    """
    c = self.config
    unit = ((images + 1) / 2).astype(self.dtype)
    x = nn.patchify(unit, c.patch).reshape(images.shape[0], c.grid**2, -1)
    x = self.patch_embed(x)
    if c.vqgan is None:
      return x, None
    features = self.vqgan(unit)
    return x, features.reshape(*x.shape[:2], -1)
