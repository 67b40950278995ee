"""The class as a condition: its embedding, its absence, its checks.

Dimension letters: B batch, D features, K classes.

Class K, one past the last, stands for "no class": training drops to it at
random, classifier-free guidance runs it beside the real ones (Ho & Salimans
2207.12598).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import errors

Array = jax.Array


class ClassEmbedding(nn.Module):
  """Learned vectors of K classes and of none.

  Attributes:
    num_classes: K; 0 for an unconditional model.
    width: D.
    dropout: share of labels replaced by K in training.
    dtype: of the output.
  """

  num_classes: int
  width: int
  dropout: float = 0.1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, labels: Array, *, deterministic: bool = True) -> Array:
    """Embeds labels.

    Args:
      labels: int [B] in 0 ... K.
      deterministic: if False, labels are dropped with the rng 'dropout'.

    Returns:
      [B, D].
    """
    if not deterministic and self.dropout:
      shape = labels.shape
      drop = jax.random.bernoulli(self.make_rng('dropout'), self.dropout, shape)
      labels = jnp.where(drop, self.num_classes, labels)
    table = nn.Embed(
      self.num_classes + 1,
      self.width,
      dtype=self.dtype,
      embedding_init=nn.initializers.truncated_normal((3 * self.width) ** -0.5),
      name='table',
    )
    return table(labels)


def with_null(labels: Array, num_classes: int) -> Array:
  """Appends as many unconditional rows: [B] to [2 B]."""
  return jnp.concatenate([labels, jnp.full_like(labels, num_classes)])


def check_labels(labels: Array | np.ndarray, num_classes: int) -> None:
  """Refuses labels that are no class; traced labels pass unseen.

  Args:
    labels: int [B].
    num_classes: K; K itself (no class) is allowed.

  Raises:
    UserError: names the labels that are out of range.
  """
  if isinstance(labels, jax.core.Tracer):
    return
  values = np.asarray(labels)
  wrong = sorted(
    {int(v) for v in values[(values < 0) | (values > num_classes)]}
  )
  if wrong:
    raise errors.UserError(
      f'unknown class {wrong}: this generator knows 0 to {num_classes - 1}, '
      f'and {num_classes} for no class'
    )
