"""Scores from a text: what it resembles, and which of its words count.

Dimension letters: B batch, N token slots, M text slots, D features, A heads.
"""

from __future__ import annotations

from typing import Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import similarities
from tokpress_jax.pruners.scores.attention import masked_softmax
from tokpress_jax.types import Array


def text_similarity(
  features: Array,
  text: Array,
  *,
  text_valid: Array,
  over: Literal['mean', 'sum', 'max'] = 'mean',
) -> Array:
  """Cosine of each token to a text.

  SliME sums over the words; a pooled text (CATP, CLIP) has one.

  Args:
    features: [B, N, D].
    text: [B, M, D] in the same space.
    text_valid: [B, M] bool.
    over: how words are joined.

  Returns:
    float32 [B, N]; 0 where there is no text.

  Raises:
    UserError: if `over` is none of these.
  """
  if over not in ('mean', 'sum', 'max'):
    raise UserError(f"words join by 'mean', 'sum' or 'max', got {over!r}")
  pairs = similarities.cosine(features, text)
  some = text_valid.any(axis=1, keepdims=True)
  if over == 'max':
    best = jnp.where(text_valid[:, None], pairs, -jnp.inf).max(axis=2)
    return jnp.where(some, best, 0)
  total = jnp.where(text_valid[:, None], pairs, 0).sum(axis=2)
  if over == 'sum':
    return total
  return total / jnp.maximum(text_valid.sum(axis=1, keepdims=True), 1)


def rater_weights(
  features: Array, text: Array, *, valid: Array, text_valid: Array
) -> Array:
  """What each word has to do with the image (SparseVLM, arXiv:2410.04417).

  Each token's products with all words go through a softmax over the words; the
  mean over tokens is the word's weight.

  Args:
    features: [B, N, D] as they enter the language model; not normalised.
    text: [B, M, D] likewise.
    valid: [B, N] bool.
    text_valid: [B, M] bool.

  Returns:
    float32 [B, M], of sum 1; 0 where padded.
  """
  products = jnp.einsum(
    'bnd,bmd->bnm',
    features.astype(jnp.float32),
    text.astype(jnp.float32),
    precision='highest',
  )
  products = jnp.where(text_valid[:, None], products, -jnp.inf)
  share = jnp.where(valid[..., None], masked_softmax(products), 0)
  return share.sum(axis=1) / jnp.maximum(valid.sum(axis=1), 1)[:, None]


def raters(weights: Array, *, text_valid: Array) -> Array:
  """The words above the mean weight, [B, M] bool (SparseVLM)."""
  number = jnp.maximum(text_valid.sum(axis=1, keepdims=True), 1)
  mean = jnp.where(text_valid, weights, 0).sum(axis=1, keepdims=True) / number
  return text_valid & (weights > mean)


def text_prior(attention: Array, *, text_valid: Array) -> Array:
  """What each word weighs in a text's attention (AdaptInfer, 2508.06084).

  The column sums of A + A^T - diag(A), head by head. The score of a token is
  `attention_rows(rows, weight=text_prior(...), heads='sum', queries='sum')`.

  Args:
    attention: [B, A, M, M] probabilities of text to text.
    text_valid: [B, M] bool.

  Returns:
    float32 [B, A, M]; 0 where padded.
  """
  both = text_valid[:, None, :, None] & text_valid[:, None, None, :]
  attention = jnp.where(both, attention.astype(jnp.float32), 0)
  diagonal = jnp.diagonal(attention, axis1=2, axis2=3)
  return attention.sum(axis=2) + attention.sum(axis=3) - diagonal
