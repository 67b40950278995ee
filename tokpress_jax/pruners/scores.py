"""Scores: how much each token is worth, [B, N], higher is kept.

Dimension letters: B batch, N token slots, A heads, D features.

Scores say nothing about padding, protection or budgets: selectors do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.types import Array


def attention_row(
  row: Array, *, heads: Literal['mean', 'sum', 'max'] = 'mean'
) -> Array:
  """Attention that one query pays to each token.

  Args:
    row: [B, A, N] attention of the query.
    heads: how the heads are joined.

  Returns:
    float32 [B, N].
  """
  joins: dict[str, Callable[..., Array]] = {
    'mean': jnp.mean,
    'sum': jnp.sum,
    'max': jnp.max,
  }
  return joins[heads](row.astype(jnp.float32), axis=1)


def norm(x: Array, *, order: Literal[1, 2] = 2) -> Array:
  """Length of each token's vector x [B, N, D]: float32 [B, N]."""
  return jnp.linalg.norm(x.astype(jnp.float32), ord=order, axis=-1)


def random(rng: Array, valid: Array) -> Array:
  """Uniform numbers, the same for a row whatever its batch and padding.

  Args:
    rng: [B] typed keys.
    valid: [B, N].

  Returns:
    float32 [B, N]; the i-th valid token of a row has the i-th number of its
    key.
  """
  draw = jax.vmap(lambda key: jax.random.uniform(key, valid.shape[1:]))(rng)
  rank = jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0)
  return jnp.take_along_axis(draw, rank, axis=1)
