"""Budgets that the scores decide: how many tokens pass a test.

Keeping what lies above a threshold is keeping the highest n, with n traced. So
each test gives `count` int32 [B] for `top`, of which the static capacity of the
reduction is the upper bound (`limit`): with more tokens passing, the highest
stay. A test that is no threshold on one score (MustDrop's two) gives a mask,
which `within` limits likewise.

Dimension letters: B batch, N token slots, J neighbours.
"""

from __future__ import annotations

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners.selectors import basic
from tokpress_jax.types import Array


def above(
  scores: Array,
  *,
  threshold: Array | float,
  free: Array,
  limit: int,
  minimum: int = 0,
) -> Array:
  """Counts scores above a threshold (DTD, LLMLingua-2's 0.5).

  Args:
    scores: [B, N].
    threshold: a number, or [B].
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the limit is below the minimum.
  """
  threshold = jnp.reshape(jnp.asarray(threshold, jnp.float32), (-1, 1))
  passed = free & (scores.astype(jnp.float32) > threshold)
  return _bounded(passed.sum(axis=1), free, limit, minimum)


def past_percentile(
  scores: Array, *, percent: float, free: Array, limit: int, minimum: int = 0
) -> Array:
  """Counts scores above a percentile, linearly interpolated (LLMLingua-2).

  Args:
    scores: [B, N].
    percent: in [0, 100], as `numpy.percentile`'s.
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the percentile or the bounds do not fit.
  """
  if not 0 <= percent <= 100:
    raise UserError(f'a percentile lies in [0, 100], got {percent}')
  level = _quantile(scores, percent / 100, free)
  return above(scores, threshold=level, free=free, limit=limit, minimum=minimum)


def top_mass(
  scores: Array, *, mass: float, free: Array, limit: int, minimum: int = 1
) -> Array:
  """Counts the fewest highest scores whose sum exceeds a share (top-p).

  SliME and HCAttention (arXiv:2406.08487, 2507.19823).

  Args:
    scores: [B, N], not negative.
    mass: share of the sum over free tokens; all are kept if it is never
      exceeded.
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the bounds do not fit.
  """
  value = jnp.where(free, scores.astype(jnp.float32), 0)
  falling = -jnp.sort(-value, axis=1)
  share = mass * value.sum(axis=1, keepdims=True)
  short = jnp.cumsum(falling, axis=1) <= share
  return _bounded(short.sum(axis=1) + 1, free, limit, minimum)


def tail(
  scores: Array, *, mass: float, free: Array, limit: int, minimum: int = 1
) -> Array:
  """Counts what is left when the lowest scores go (Token Sparse Attention).

  As many are dropped as have a running sum, from the lowest, below a share of
  the sum, and one more, as in the official code.

  Args:
    scores: [B, N], not negative.
    mass: share of the sum, 0.005 as published.
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the bounds do not fit.
  """
  value = jnp.where(free, scores.astype(jnp.float32), jnp.inf)
  rising = jnp.sort(value, axis=1)
  total = jnp.where(free, value, 0).sum(axis=1, keepdims=True)
  dropped = (jnp.cumsum(rising, axis=1) < mass * total).sum(axis=1) + 1
  return _bounded(free.sum(axis=1) - dropped, free, limit, minimum)


def outliers(
  scores: Array,
  *,
  free: Array,
  limit: int,
  factor: float = 1.5,
  minimum: int = 0,
) -> Array:
  """Counts scores above Q3 + factor (Q3 - Q1) (PruMerge, arXiv:2403.15388).

  Quartiles are linearly interpolated.

  Args:
    scores: [B, N].
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    factor: of the range between the quartiles.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the bounds do not fit.
  """
  first, third = (_quantile(scores, q, free) for q in (0.25, 0.75))
  return above(
    scores,
    threshold=third + factor * (third - first),
    free=free,
    limit=limit,
    minimum=minimum,
  )


def local_outliers(
  scores: Array,
  *,
  free: Array,
  limit: int,
  neighbours: int = 20,
  factor: float = 1.5,
  minimum: int = 0,
) -> Array:
  """Counts local outliers of scores (Recoverable Compression's ratio).

  The local outlier factor (Breunig et al., 2000) of a token is the mean density
  of its nearest neighbours over its own, as in scikit-learn's
  `LocalOutlierFactor(contamination='auto')`. The method keeps as many of the
  highest scores as there are outliers, high or low.

  Args:
    scores: [B, N].
    free: [B, N] bool, valid tokens that are not protected.
    limit: the most that may be kept.
    neighbours: J; the others of a row where it has fewer. Of two as far away
      the lower counts first.
    factor: outliers have more than this.
    minimum: the fewest, as far as there are tokens.

  Returns:
    int32 [B].

  Raises:
    UserError: if the bounds do not fit.
  """
  slots = scores.shape[1]
  near = max(min(neighbours, slots - 1), 1)
  number = free.sum(axis=1)[:, None]  # [B, 1]
  # The nearest on a line are a window of its order: no pairs are compared.
  order = jnp.sort(jnp.where(free, scores.astype(jnp.float32), jnp.inf), axis=1)
  place = jnp.arange(slots)[None, :, None]  # [1, N, 1]
  step = jnp.arange(1, near + 1)[None, None]  # [1, 1, J]
  at = jnp.concatenate([place - step, place + step], axis=2)  # [1, N, 2J]
  there = (at >= 0) & (at < number[..., None]) & (place < number[..., None])
  at = jnp.clip(at, 0, slots - 1)[0]
  x = jnp.where(jnp.isfinite(order), order, 0)
  apart = jnp.abs(x[:, at] - x[..., None])  # [B, N, 2J]
  apart = jnp.where(there, apart, jnp.inf)
  below, over = apart[..., :near], apart[..., near:]
  # The i-th below is one of J if fewer than J - i + 1 above are nearer.
  nearest = jnp.concatenate(
    [below <= over[..., ::-1], over < below[..., ::-1]], axis=2
  )
  real = there & nearest
  distance = jnp.where(real, apart, 0)
  furthest = distance.max(axis=2)  # [B, N]
  total = jnp.maximum(real.sum(axis=2), 1)
  reachable = jnp.maximum(distance, furthest[:, at])
  mean = jnp.where(real, reachable, 0).sum(axis=2) / total
  density = 1 / (mean + 1e-10)
  around = jnp.where(real, density[:, at], 0).sum(axis=2) / total
  outlying = real.any(axis=2) & (around / density > factor)
  return _bounded(outlying.sum(axis=1), free, limit, minimum)


def within(
  kept: Array,
  scores: Array,
  *,
  limit: Array | int,
  valid: Array,
  protected: Array,
) -> tuple[Array, Array]:
  """Limits a mask to a number of tokens, those of the highest scores.

  MustDrop keeps tokens with `~((sums < a * total) & (peaks < b))`.

  Args:
    kept: [B, N] bool, tokens that passed.
    scores: [B, N], which of them stay if they are too many.
    limit: [B] or one number, the most that may be kept beside protected ones.
    valid: [B, N] bool.
    protected: [B, N] bool.

  Returns:
    kept [B, N] bool, and rank int32 [B, N] by (protected, score).
  """
  passed = kept & valid & ~protected
  count = jnp.minimum(passed.sum(axis=1), limit)
  return basic.top(
    scores,
    count=count,
    valid=passed | (protected & valid),
    protected=protected & valid,
  )


def _bounded(count: Array, free: Array, limit: int, minimum: int) -> Array:
  """Clips a count to the bounds and to the tokens that there are."""
  if not 0 <= minimum <= limit:
    raise UserError(
      f'at least {minimum} and at most {limit} tokens cannot be kept; give '
      '0 <= minimum <= limit'
    )
  count = jnp.clip(count, minimum, limit)
  return jnp.minimum(count, free.sum(axis=1)).astype(jnp.int32)


def _quantile(scores: Array, q: float, free: Array) -> Array:
  """Linearly interpolated quantile over free tokens: [B]."""
  value = jnp.where(free, scores.astype(jnp.float32), jnp.inf)
  rising = jnp.sort(value, axis=1)
  place = q * (jnp.maximum(free.sum(axis=1), 1) - 1).astype(jnp.float32)
  low = jnp.floor(place).astype(jnp.int32)[:, None]
  high = jnp.ceil(place).astype(jnp.int32)[:, None]
  a = jnp.take_along_axis(rising, low, axis=1)[:, 0]
  b = jnp.take_along_axis(rising, high, axis=1)[:, 0]
  part = place - low[:, 0]
  return jnp.where(part > 0, a + part * (b - a), a)
