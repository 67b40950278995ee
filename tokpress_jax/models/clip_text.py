"""CLIP's and SigLIP's text encoders: a text to what text-guided models read.

Radford et al., "Learning Transferable Visual Models From Natural Language
Supervision" (CLIP, 2021, arXiv 2103.00020), section 2.4: a causal transformer
over byte-pair codes; the features at the text's end, projected, stand for all
of it. TA-TiTok's decoder reads the features after the last norm, MaskGen those
before the last layer and the projected ones.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (SigLIP, 2023, arXiv
2303.15343): every token sees every other, padding included, and the last one
stands for the text, which is filled up to its full length as in training.

Dimension letters: B batch, M tokens of a text (77), D model features, P
projected features, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import arrays, nn
from tokpress_jax.errors import UserError
from tokpress_jax.nn import attention as attention_lib

Array = jax.Array


@struct.dataclass
class TextFeatures:
  """What the encoder says of texts.

  Attributes:
    before_last: [B, M, D], before the last layer (MaskGen's trunk).
    last: [B, M, D], after the last norm (TA-TiTok's decoder).
    pooled: [B, P], of the whole text.
  """

  before_last: Array
  last: Array
  pooled: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
  """A text encoder; the defaults are those of CLIP ViT-L/14.

  Attributes:
    vocabulary: V.
    length: M.
    width: D.
    depth: layers.
    heads: attention heads.
    mlp_ratio: hidden features of an MLP over D.
    activation: of the MLPs.
    visibility: 'causal', or 'all' (SigLIP).
    pool: which token stands for the text: the one at its 'end', where its
      largest code is, or the 'last' of the row (SigLIP).
    features: P.
    project_bias: whether the projection has a bias.
    norm_eps: of the layer norms.
  """

  family: ClassVar[str] = 'encoder'

  vocabulary: int = 49408
  length: int = 77
  width: int = 768
  depth: int = 12
  heads: int = 12
  mlp_ratio: float = 4.0
  activation: nn.Activation = 'gelu_quick'
  visibility: Literal['causal', 'all'] = 'causal'
  pool: Literal['end', 'last'] = 'end'
  features: int = 768
  project_bias: bool = False
  norm_eps: float = 1e-5

  def __post_init__(self):
    if self.depth < 2:
      raise ValueError(f'depth must be at least 2, got {self.depth}')

  @property
  def stack(self) -> nn.StackConfig:
    """Its transformer."""
    block = nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation=self.activation,
      norm_eps=self.norm_eps,
    )
    return nn.StackConfig(depth=self.depth, block=block)

  def build(self, *, dtype: Any = jnp.float32) -> ClipText:
    """Makes the module."""
    return ClipText(self, dtype=dtype)


class ClipText(linen.Module):
  """Codes of texts to their features."""

  config: ClipTextConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.token_embed = linen.Embed(c.vocabulary, c.width, dtype=self.dtype)
    self.positions = nn.LearnedPositions(
      c.length, c.width, std=0.01, dtype=self.dtype
    )
    self.stack = nn.Stack(c.stack, dtype=self.dtype)
    self.norm = nn.LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    self.project = linen.Dense(
      c.features, use_bias=c.project_bias, dtype=self.dtype
    )

  def __call__(self, codes: Array) -> TextFeatures:
    """Encodes texts.

    Args:
      codes: int [B, M]. Of CLIP they are those of `clip_codes`; each row holds
        the largest code, V - 1, where its text ends, and anything after it.

    Returns:
      Features, float32. What follows a text's end has features too, which some
      models read: it must be filled as they were trained.

    Raises:
      UserError: if these are no codes, or more than M in a row.
    """
    c = self.config
    shape = getattr(codes, 'shape', None)
    if (
      shape is None
      or len(shape) != 2
      or shape[1] > c.length
      or not jnp.issubdtype(codes.dtype, jnp.integer)
    ):
      raise UserError(
        f'codes of texts are int [B, n] with n at most {c.length}, as '
        f'config.codes([...]) or models.clip_codes([...]) gives them; got '
        f'{arrays.said(codes)}'
      )
    if arrays.concrete(codes):
      low, high = int(codes.min()), int(codes.max())
      if low < 0 or high >= c.vocabulary:
        raise UserError(
          f'codes are from 0 to {c.vocabulary - 1}, got {low} to {high}: they '
          "are another vocabulary's"
        )
    length = codes.shape[1]
    x = self.token_embed(codes) + self.positions(slice(length))[None]
    mask = None
    if c.visibility == 'causal':
      mask = jnp.asarray(attention_lib.block_causal_mask((1,) * length))
    x, _ = self.stack(x, mask=mask, segment=(0, c.depth - 1))
    before = x.astype(jnp.float32)
    x, _ = self.stack(x, mask=mask, segment=(c.depth - 1, c.depth))
    last = self.norm(x)
    whole = last[:, -1]
    if c.pool == 'end':
      end = jnp.argmax(codes, axis=1)
      whole = jnp.take_along_axis(last, end[:, None, None], axis=1)[:, 0]
    return TextFeatures(
      before_last=before,
      last=last.astype(jnp.float32),
      pooled=self.project(whole).astype(jnp.float32),
    )
