"""Scores from vectors alone: keys, values or features; no attention.

Dimension letters: B batch, N token slots, D features, R sketch. Leading axes
may also be [B, A] with a mask of the same rank: heads are then scored apart.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from tokpress_jax.nn.norms import l2_normalize
from tokpress_jax.pruners.scores import combine
from tokpress_jax.types import Array


def norm(x: Array, *, order: Literal[1, 2] = 2) -> Array:
  """Length of each token's vector x [..., N, D]: float32 [..., N].

  DART's pivots have the largest L1 norms of joined keys; short keys draw much
  attention, so key-norm pruning of caches keeps the highest `-norm(keys)`.
  """
  return jnp.linalg.norm(x.astype(jnp.float32), ord=order, axis=-1)


def key_difference(x: Array, *, valid: Array) -> Array:
  """Minus the cosine to the mean direction (KeyDiff, arXiv:2504.15364).

  Args:
    x: [..., N, D] keys or features.
    valid: [..., N] bool; the mean is over these.

  Returns:
    float32 [..., N].
  """
  unit = l2_normalize(x.astype(jnp.float32))
  count = jnp.maximum(valid.sum(axis=-1), 1).astype(jnp.float32)
  mean = jnp.where(valid[..., None], unit, 0).sum(axis=-2) / count[..., None]
  anchor = l2_normalize(mean)
  return -jnp.einsum('...nd,...d->...n', unit, anchor, precision='highest')


def leverage(
  x: Array, *, valid: Array, sketch: Array | None = None, ridge: float = 1e-2
) -> Array:
  """Statistical leverage of each centred vector, as a z-score.

  diag(X (X^T X + ridge I)^-1 X^T), with X centred and, if it is wide,
  projected (Compactor, as in kvpress: 48 random columns of variance 1/48).

  Args:
    x: [B, N, D] keys before rotation, or features.
    valid: [B, N] bool.
    sketch: [D, R] projection; none if not given.
    ridge: added to the diagonal of X^T X.

  Returns:
    float32 [B, N], of mean 0 and deviation 1 over the valid tokens.
  """
  mask = valid[..., None]
  x = jnp.where(mask, x.astype(jnp.float32), 0)
  count = jnp.maximum(valid.sum(axis=1), 1).astype(jnp.float32)[:, None, None]
  x = jnp.where(mask, x - x.sum(axis=1, keepdims=True) / count, 0)
  if sketch is not None:
    x = jnp.einsum(
      'bnd,dr->bnr', x, sketch.astype(jnp.float32), precision='highest'
    )
  gram = jnp.einsum('bnd,bne->bde', x, x, precision='highest')
  gram = gram + ridge * jnp.eye(x.shape[-1])[None]
  solved = jnp.linalg.solve(gram, jnp.swapaxes(x, 1, 2))  # [B, D, N]
  score = jnp.einsum('bnd,bdn->bn', x, solved, precision='highest')
  return combine.normalise(score, valid=valid, by='zscore')
