"""Pooling by attention: a learned query reads all tokens.

Zhai et al., "Scaling Vision Transformers" (arXiv 2106.04560), section 3.2 (the
MAP head, which SigLIP has): one query, then an MLP with a residual.

Dimension letters: B batch, N token slots, D features, A heads.
"""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.pruners import reduction
from tokpress_jax.types import Array, Tokens


class AttentionPool(linen.Module):
  """All tokens of a row to one vector; a token counts by its mass.

  Attributes:
    config: of the tower's blocks, whose sizes the head has.
    dtype: of the matmuls.
  """

  config: nn.BlockConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.probe = self.param(
      'probe', linen.initializers.normal(c.width**-0.5), (c.width,)
    )
    self.attn = nn.CrossAttention(c.attention, dtype=self.dtype)
    self.norm = nn.LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    self.mlp = nn.Mlp(c, dtype=self.dtype)

  def __call__(self, tokens: Tokens, *, proportional: bool = True) -> Array:
    """Pools.

    Args:
      tokens: N slots, normed.
      proportional: whether a merged token counts as often as what it stands
        for.

    Returns:
      [B, D].
    """
    batch, _, width = tokens.features.shape
    probe = self.probe.astype(self.dtype)[None, None]
    x = self.attn(
      jnp.broadcast_to(probe, (batch, 1, width)),
      self.attn.memory(tokens.features),
      tokens.valid,
      bias=reduction.log_mass_bias(tokens) if proportional else None,
    )
    return (x + self.mlp(self.norm(x)))[:, 0]
