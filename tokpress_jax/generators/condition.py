"""What a generator draws for: a class or a text, its absence, its checks.

Dimension letters: B batch, D features, K classes, M tokens of a text, F
features of one.

Training drops the condition at random, and classifier-free guidance runs its
absence beside it (Ho & Salimans 2207.12598). Class K, one past the last, stands
for "no class"; the empty text for no text.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax import errors

Array = jax.Array


@struct.dataclass
class Text:
  """Texts as a generator reads them: what a text encoder made of them.

  All arrays have B rows, so that a batch can be cut and spread as any other;
  `text` makes one from a single encoding of the empty text.

  Attributes:
    features: [B, M, F], one for each token of the text. MaskGen reads CLIP
      ViT-L/14's of the layer before the last, without its final norm.
    pooled: [B, F], of the whole text (CLIP's projected one).
    null_features: [B, M, F], those of the empty text.
    null_pooled: [B, F], as well.
    score: [B], how beautiful the image is to be, about 0 to 10.
    for_decoder: [B, M, F], what the tokenizer's decoder reads; None if it reads
      no text. TA-TiTok's reads CLIP's last layer after its final norm.
    valid: bool [B, M], the features that count; all if None.
    null_valid: as well, of the empty text; None where `valid` is.
  """

  features: Array
  pooled: Array
  null_features: Array
  null_pooled: Array
  score: Array
  for_decoder: Array | None = None
  valid: Array | None = None
  null_valid: Array | None = None

  @property
  def batch(self) -> int:
    """B."""
    return self.features.shape[0]

  def null(self) -> Text:
    """The same rows without their texts; the scores stay."""
    return dataclasses.replace(
      self,
      features=self.null_features,
      pooled=self.null_pooled,
      valid=self.null_valid,
    )

  def with_null(self) -> Text:
    """Appends as many rows without a text: 2 B rows."""
    join = lambda a, b: jnp.concatenate([a, b])
    return jax.tree.map(join, self, self.null())

  def dropped(self, rng: Array, rate: float) -> Text:
    """Takes the text from a share of the rows, for training.

    Args:
      rng: a typed key.
      rate: the share.
    """
    drop = jax.random.bernoulli(rng, rate, (self.batch,))
    pick = lambda null, own: jnp.where(
      drop.reshape(-1, *(1,) * (own.ndim - 1)), null, own
    )
    return jax.tree.map(pick, self.null(), self)

  def check(self, features: int) -> None:
    """Raises UserError unless all arrays have the shapes above.

    Args:
      features: F.
    """
    batch, length = (*self.features.shape, 0, 0)[:2]
    tokens, whole = (batch, length, features), (batch, features)
    expected = {
      'features': tokens,
      'null_features': tokens,
      'pooled': whole,
      'null_pooled': whole,
      'score': (batch,),
    }
    if self.for_decoder is not None:
      expected['for_decoder'] = (batch, *self.for_decoder.shape[1:])
    if self.valid is not None or self.null_valid is not None:
      expected |= {'valid': (batch, length), 'null_valid': (batch, length)}
    given = {
      name: tuple(getattr(getattr(self, name), 'shape', ()))
      for name in expected
    }
    wrong = [
      f'{name} {given[name]} (expected {shape})'
      for name, shape in expected.items()
      if given[name] != shape
    ]
    if wrong:
      raise errors.UserError(
        f'the arrays of a text do not fit together, or not this generator, '
        f'which reads features [B, M, {features}]: {", ".join(wrong)}; '
        'generators.text makes one of single encodings'
      )


def text(
  features: Any,
  pooled: Any = None,
  *,
  null_features: Any,
  null_pooled: Any = None,
  score: Any = 6.5,
  for_decoder: Any = None,
  valid: Any = None,
  null_valid: Any = None,
) -> Text:
  """Makes a `Text` from encodings.

  Args:
    features: [B, M, F]; see `Text`.
    pooled: [B, F], or [B, 1, F]; 0 if None, of an encoder that has none.
    null_features: [M, F] of the empty text, or [B or 1, M, F].
    null_pooled: [F] as well, or [B or 1, F]; 0 if None.
    score: one number, or [B].
    for_decoder: [B, M, F] or None.
    valid: bool [B, M], False for padding of the texts; None for none.
    null_valid: bool [M] of the empty text, or [B or 1, M]; with `valid`.

  Returns:
    The text, float32.

  Raises:
    UserError: if the encodings do not fit together.
  """
  wide = lambda x: jnp.asarray(x, jnp.float32)
  features = wide(features)
  if features.ndim != 3:
    raise errors.UserError(
      'features of texts are [B, M, F] (texts, tokens, features), got '
      f'{list(features.shape)}'
    )
  batch, _, size = features.shape
  pooled = wide(jnp.zeros((batch, size)) if pooled is None else pooled)
  null_pooled = jnp.zeros((size,)) if null_pooled is None else null_pooled
  rows = lambda x: wide(x).reshape(-1, x.shape[-1]) if x.ndim > 1 else x
  pooled = rows(pooled)
  if pooled.shape != (batch, size):
    raise errors.UserError(
      f'pooled of {batch} texts with features {list(features.shape)} is '
      f'{[batch, size]}, got {list(pooled.shape)}'
    )
  given = {
    'pooled': (pooled, (batch, size)),
    'null_features': (wide(null_features), features.shape),
    'null_pooled': (rows(wide(null_pooled)), (batch, size)),
    'score': (wide(score), (batch,)),
  }
  if (valid is None) != (null_valid is None):
    raise errors.UserError(
      'valid says which features of the texts count, null_valid of the empty '
      'text: give both, or none'
    )
  if valid is not None:
    places = features.shape[:2]
    given['valid'] = (jnp.asarray(valid, bool), places)
    given['null_valid'] = (jnp.asarray(null_valid, bool), places)
  made = {}
  for name, (x, shape) in given.items():
    missing = (1,) * (len(shape) - x.ndim)
    try:
      made[name] = jnp.broadcast_to(x.reshape(missing + x.shape), shape)
    except (TypeError, ValueError):
      raise errors.UserError(
        f'{name} of {batch} texts with features {list(features.shape)} is '
        f'{list(shape)}, or one for all; got {list(x.shape)}'
      ) from None
  if for_decoder is not None:
    made['for_decoder'] = wide(for_decoder)
  return Text(features=features, **made)


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
