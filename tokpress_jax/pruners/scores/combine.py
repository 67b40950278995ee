"""Scores made of scores: normalise, pool, group, accumulate, protect, perturb.

Adding, multiplying and powers are the array's own: TransPrune is
`normalise(ttv, valid=v, by='l1') + normalise(iga, valid=v, by='l1')`. Summing
over layers too: `jnp.stack(rows)[start:].sum(axis=0)` is VTC-CLS; what is kept
in a `Reduction`'s `state` moves with the tokens, so `state + score` accumulates
over layers that prune.

Dimension letters: B batch, N token slots, A heads, G groups of heads, k width.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners.scores import fixed
from tokpress_jax.types import Array

Norm = Literal['l1', 'l2', 'minmax', 'zscore', 'softmax', 'rank']


def normalise(
  scores: Array,
  *,
  valid: Array,
  by: Norm,
  temperature: float = 1.0,
  eps: float = 0.0,
) -> Array:
  """Makes the scores of a row comparable with others.

  Args:
    scores: [..., N].
    valid: [..., N] bool; statistics are over these.
    by: 'l1' divides by the sum of absolute values; 'l2' by the root of the sum
      of squares; 'minmax' goes from 0 to 1; 'zscore' has mean 0 and population
      deviation 1; 'softmax' is positive of sum 1; 'rank' is the share of other
      scores below each one, ties by slot (the earlier is higher).
    temperature: of the softmax.
    eps: added to what is divided by.

  Returns:
    float32 [..., N]; 0 where padded. A row of equal scores is 0 by 'minmax' and
    'zscore', never NaN.

  Raises:
    UserError: if `by` is none of these.
  """
  scores = jnp.where(valid, scores.astype(jnp.float32), 0)
  low: Array | float
  total = lambda x: jnp.where(valid, x, 0).sum(axis=-1, keepdims=True)
  number = jnp.maximum(valid.sum(axis=-1, keepdims=True), 1)
  if by == 'l1':
    low, size = 0.0, total(jnp.abs(scores))
  elif by == 'l2':
    low, size = 0.0, jnp.sqrt(total(jnp.square(scores)))
  elif by == 'minmax':
    low = jnp.where(valid, scores, jnp.inf).min(axis=-1, keepdims=True)
    high = jnp.where(valid, scores, -jnp.inf).max(axis=-1, keepdims=True)
    size = high - low
  elif by == 'zscore':
    low = total(scores) / number
    size = jnp.sqrt(total(jnp.square(scores - low)) / number)
  elif by == 'softmax':
    logits = jnp.where(valid, scores / temperature, -jnp.inf)
    peak = jnp.max(jnp.where(valid, logits, -jnp.inf), axis=-1, keepdims=True)
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    scores, low = jnp.exp(logits - peak), 0.0
    size = scores.sum(axis=-1, keepdims=True)
  elif by == 'rank':
    slots = jnp.broadcast_to(jnp.arange(scores.shape[-1]), scores.shape)
    order = jax.lax.sort(
      (valid.astype(jnp.int32), scores, -slots), dimension=-1, num_keys=3
    )[2]
    padding = scores.shape[-1] - valid.sum(axis=-1, keepdims=True)
    at = jnp.argsort(-order, axis=-1)
    scores, low = (at - padding).astype(jnp.float32), 0.0
    size = jnp.maximum(number - 1, 1).astype(jnp.float32)
  else:
    raise UserError(
      f"unknown norm {by!r}; try 'l1', 'l2', 'minmax', 'zscore', 'softmax' or "
      "'rank'"
    )
  size = size + eps
  result = (scores - low) / jnp.where(size > 0, size, 1)
  return jnp.where(valid, result, 0)


def pool(
  scores: Array,
  *,
  valid: Array,
  width: int,
  by: Literal['mean', 'max'] = 'mean',
) -> Array:
  """Smooths scores along the row (SnapKV, arXiv:2404.14469: width 5).

  Beyond the ends of a row, padding too, lie zeros that are counted in the mean
  (PyTorch's `avg_pool1d` as SnapKV calls it) and never are the maximum. Padding
  must not lie between valid tokens.

  Args:
    scores: [..., N].
    valid: [..., N] bool.
    width: k, odd.
    by: 'mean' or 'max'.

  Returns:
    float32 [..., N].

  Raises:
    UserError: if the width is even.
  """
  if width < 1 or width % 2 == 0:
    raise UserError(f'a window has an odd width of at least 1, got {width}')
  outside = 0.0 if by == 'mean' else -jnp.inf
  scores = jnp.where(valid, scores.astype(jnp.float32), outside)
  half = width // 2
  pad = [(0, 0)] * (scores.ndim - 1) + [(half, half)]
  wide = jnp.pad(scores, pad, constant_values=outside)
  slots = scores.shape[-1]
  near = jnp.stack([wide[..., i : i + slots] for i in range(width)])
  return near.mean(axis=0) if by == 'mean' else near.max(axis=0)


def group_reduce(
  scores: Array, *, groups: int, by: Literal['mean', 'max'] = 'mean'
) -> Array:
  """Joins the heads that share keys (grouped-query attention).

  Args:
    scores: [B, A, N].
    groups: G, the number of key heads; A / G neighbours share one.
    by: 'mean' or 'max'.

  Returns:
    float32 [B, G, N].

  Raises:
    UserError: if the groups do not divide the heads.
  """
  batch, heads, slots = scores.shape
  if groups < 1 or heads % groups:
    raise UserError(f'{heads} heads do not make {groups} equal groups')
  x = scores.astype(jnp.float32).reshape(batch, groups, heads // groups, slots)
  return x.mean(axis=2) if by == 'mean' else x.max(axis=2)


def ema(state: Array | None, scores: Array, *, decay: float) -> Array:
  """Moving mean of scores over layers or steps: decay s + (1 - decay) x.

  Args:
    state: what was returned before, over the same slots; None at first, when
      the scores are taken as they are.
    scores: [..., N].
    decay: in [0, 1).

  Returns:
    float32 [..., N].
  """
  scores = scores.astype(jnp.float32)
  return scores if state is None else decay * state + (1 - decay) * scores


def protect(scores: Array, mask: Array) -> Array:
  """Gives the tokens of a mask the highest score; they count in the budget.

  `Tokens.protected` instead is kept on top of it.
  """
  return jnp.where(mask, jnp.inf, scores.astype(jnp.float32))


def forbid(scores: Array, mask: Array) -> Array:
  """Gives the tokens of a mask the lowest score."""
  return jnp.where(mask, -jnp.inf, scores.astype(jnp.float32))


def perturb(
  scores: Array, *, rng: Array, valid: Array, scale: float = 1.0
) -> Array:
  """Adds Gumbel noise, so that top-k draws without replacement.

  The k highest of log p + Gumbel noise are k tokens drawn one after another
  with probabilities p (arXiv:1903.06059).

  Args:
    scores: [B, N], log-probabilities up to a constant for a fair draw.
    rng: [B] typed keys.
    valid: [B, N] bool; the i-th valid token has the i-th noise of its key.
    scale: of the noise.

  Returns:
    float32 [B, N].
  """
  draw = lambda key: jax.random.gumbel(key, scores.shape[1:])
  noise = jnp.take_along_axis(jax.vmap(draw)(rng), fixed.place(valid), axis=1)
  return scores.astype(jnp.float32) + scale * noise
