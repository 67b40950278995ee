"""How much of a row of tokens is in the few that are kept, and of its class.

Dimension letters: M images, B of a batch, N tokens, K kept, D features, V
classes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.pruners import reduction, similarities
from tokpress_jax.types import Array, Tokens

_RIDGE = 1e-3


def measures(tokens: Tokens, kept: Tokens) -> tuple[Array, Array, Array]:
  """Coverage, diversity and error of each row, see `choosing.ChoosingRow`.

  Args:
    tokens: N slots.
    kept: K of them, or what stands for them.

  Returns:
    float32 [B] each.
  """
  x = tokens.features.astype(jnp.float32)
  y = kept.features.astype(jnp.float32)
  valid = kept.valid
  pairs = similarities.cosine(x, y)  # [B, N, K]
  pairs = jnp.where(valid[:, None], pairs, -1)
  own = similarities.cosine(y)
  both = valid[:, :, None] & valid[:, None]
  both &= ~jnp.eye(valid.shape[1], dtype=bool)[None]
  number = jnp.maximum(both.sum(axis=(1, 2)), 1)
  diversity = jnp.where(both, 1 - own, 0).sum(axis=(1, 2)) / number
  near, at = jax.lax.top_k(pairs, min(3, valid.shape[1]))
  weight = jax.nn.softmax(jnp.where(near > -1, 20 * near, -jnp.inf), axis=-1)
  batch, slots, links = at.shape
  drawn = reduction.gather(y, at.reshape(batch, -1))
  drawn = drawn.reshape(batch, slots, links, -1)
  drawn = jnp.einsum('bnj,bnjd->bnd', weight, drawn)
  variance = jnp.square(x - x.mean(axis=1, keepdims=True)).sum(axis=(1, 2))
  error = jnp.square(x - drawn).sum(axis=(1, 2)) / variance
  return pairs.max(axis=2).mean(axis=1), diversity, error


def probe(
  train: np.ndarray, labels: np.ndarray, test: np.ndarray
) -> np.ndarray:
  """Guesses classes by a ridge regression on standardised features.

  Args:
    train: [N, D].
    labels: int [N].
    test: [M, D].

  Returns:
    int [M], of the V classes among the labels.
  """
  mean, std = train.mean(axis=0), train.std(axis=0) + 1e-6
  one = lambda n: np.ones((n, 1), np.float64)

  def wide(x: np.ndarray) -> np.ndarray:
    return np.concatenate([(x - mean) / std, one(len(x))], axis=1)

  x, classes = wide(train), np.unique(labels)
  target = (labels[:, None] == classes).astype(np.float64) - 1 / len(classes)
  gram = x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1])
  weights = np.linalg.solve(gram, x.T @ target)
  return classes[np.argmax(wide(test) @ weights, axis=1)]
