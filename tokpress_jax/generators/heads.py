"""From features to a distribution over codes.

Dimension letters: B batch, T tokens, D features, V codebook entries.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.nn import norms, products

Array = jax.Array


class CategoricalHead(nn.Module):
  """Norm, modulated by a condition if there is one, and float32 logits.

  Attributes:
    codebook_size: V.
    width: D.
    norm: 'layer' or 'rms'.
    eps: of the norm.
    dtype: of the modulation; the logits are float32.
  """

  codebook_size: int
  width: int
  norm: str = 'layer'
  eps: float = 1e-6
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array, cond: Array | None = None) -> Array:
    """Predicts codes.

    Args:
      x: [B, T, D].
      cond: [B, D] or, per position, [B, T, D], or None; decides whether the
        norm is affine (None) or modulated (adaLN: SiLU, then a linear layer to
        scale and shift).

    Returns:
      float32 [B, T, V].
    """
    y = norms.make_norm(
      self.norm,
      eps=self.eps,
      affine=cond is None,
      dtype=jnp.float32,
      name='norm',
    )(x)
    if cond is not None:
      if cond.ndim == 2:
        cond = cond[:, None]
      half = nn.initializers.truncated_normal(0.5 * (3 * self.width) ** -0.5)
      ada = products.Dense(
        2 * self.width, dtype=self.dtype, kernel_init=half, name='ada'
      )(nn.silu(cond))
      scale, shift = jnp.split(ada.astype(jnp.float32), 2, axis=-1)
      y = norms.modulate(y, scale, shift)
    small = nn.initializers.truncated_normal(0.02 * (3 * self.width) ** -0.5)
    logits = products.Dense(
      self.codebook_size, dtype=jnp.float32, kernel_init=small, name='logits'
    )
    return logits(y)
