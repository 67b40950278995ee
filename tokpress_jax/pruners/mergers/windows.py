"""Windows and segments: tokens join those that stand beside them.

Dimension letters: B batch, N token slots, K kept slots, E metric features, P
position axes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn.norms import l2_normalize
from tokpress_jax.pruners.mergers.grouped import grouped
from tokpress_jax.types import Array, Reduction, Tokens


def windows(
  tokens: Tokens,
  *,
  size: tuple[int, ...],
  capacity: int,
  coordinates: Array | None = None,
  metric: Array | None = None,
  threshold: float | None = None,
  at_most: Array | None = None,
) -> Reduction:
  """Non-overlapping windows become one token each.

  Pooling of a grid (M3), of a row by a stride (LLaVolta: coordinates are slot
  numbers), or of those windows only whose tokens are alike (MustDrop,
  arXiv:2411.10803: 3 x 3, mean cosine of all pairs at least 0.8).

  Args:
    tokens: N slots; protected ones stay alone; owners are not mixed.
    size: of a window along each of the P axes.
    capacity: K, at least the windows (or what is left with a threshold) and
      the protected tokens of a row; what is beyond it is dropped. With a
      threshold the number depends on the data: give N, or `at_most`.
    coordinates: int [B, N, P]; the tokens' positions if not given.
    metric: [B, N, E], needed with a threshold.
    threshold: the least mean cosine at which a window is merged; None merges
      all.
    at_most: int [B], unprotected tokens that may be left with a threshold; it
      is lowered, window by window, until no more are.

  Returns:
    The reduction, a window's representative its first token, slot order kept.

  Raises:
    UserError: if the axes do not agree, or a threshold has no metric.
  """
  if coordinates is None:
    coordinates = tokens.positions
  if coordinates.shape[-1] != len(size):
    raise UserError(
      f'windows of {len(size)} axes {size} need coordinates of as many, got '
      f'{coordinates.shape}; give one size per axis'
    )
  if threshold is not None and metric is None:
    raise UserError('windows with a threshold need a metric to compare by')
  free = tokens.valid & ~tokens.protected
  same = free[:, None] & free[:, :, None]
  same &= tokens.owner[:, None] == tokens.owner[:, :, None]
  for axis, length in enumerate(size):
    cell = jnp.floor_divide(coordinates[..., axis], length)
    same &= cell[:, None] == cell[:, :, None]
  if threshold is not None:
    assert metric is not None
    alike = mean_cosine(metric, same)
    level: Array | float = threshold
    if at_most is not None:
      level = jnp.minimum(threshold, _level_of(alike, same, at_most))
    alike = alike >= level
    own = jnp.eye(free.shape[1], dtype=bool)[None]
    same &= alike[:, :, None] | own
  slots = jnp.arange(free.shape[1], dtype=jnp.int32)[None]
  first = jnp.argmax(same, axis=2).astype(jnp.int32)
  lead = jnp.where(free, first, jnp.where(tokens.protected, slots, -1))
  return grouped(tokens, lead, capacity=capacity)


def _level_of(alike: Array, same: Array, at_most: Array) -> Array:
  """The similarity [B, 1] from which on merging leaves few enough tokens."""
  number = same.sum(axis=2)
  # Merging a window of n saves n - 1 tokens, 1 - 1 / n for each of it.
  saved = jnp.where(number > 0, 1 - 1 / jnp.maximum(number, 1), 0)
  falling, saved = jax.lax.sort((-alike, saved), dimension=1, num_keys=1)
  need = (number > 0).sum(axis=1) - at_most
  enough = jnp.cumsum(saved, axis=1) > need[:, None] - 1e-3
  at = jnp.argmax(enough, axis=1)[:, None]
  level = -jnp.take_along_axis(falling, at, axis=1) - 1e-6
  level = jnp.where(enough.any(axis=1, keepdims=True), level, -jnp.inf)
  return jnp.where(need[:, None] > 0, level, jnp.inf)


def mean_cosine(metric: Array, same: Array) -> Array:
  """Mean cosine of all pairs of different tokens in each token's group.

  Args:
    metric: [B, N, E].
    same: [B, N, N] bool, an equivalence.

  Returns:
    float32 [B, N]; 1 where a token is alone.
  """
  unit = jax.lax.stop_gradient(l2_normalize(metric.astype(jnp.float32)))
  number = jnp.sum(same, axis=2)
  total = jnp.einsum(
    'bij,bje->bie', same.astype(jnp.float32), unit, precision='highest'
  )
  # |sum of u|^2 counts every ordered pair, and every token with itself.
  pairs = jnp.sum(total * total, axis=-1) - number
  return jnp.where(number > 1, pairs / jnp.maximum(number * (number - 1), 1), 1)


def segments(tokens: Tokens, *, starts: Array, capacity: int) -> Reduction:
  """Stretches of a row become one token each (MAGNET, words, GMSA).

  Args:
    tokens: N slots; a protected one stays alone, and the next one starts a
      segment.
    starts: [B, N] bool, True where a token starts a segment; the first valid
      one always does. Padding may stand anywhere.
    capacity: K; segments and protected tokens beyond it are dropped.

  Returns:
    The reduction, a segment's representative its first token.
  """
  valid, protected = tokens.valid, tokens.valid & tokens.protected
  slots = jnp.arange(valid.shape[1], dtype=jnp.int32)[None]
  last = jax.lax.cummax(jnp.where(valid, slots, -1), axis=1)
  before = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
  after_protected = jnp.take_along_axis(
    protected, jnp.maximum(before, 0), axis=1
  ) & (before >= 0)
  first = valid & (starts | protected | after_protected | (before < 0))
  lead = jax.lax.cummax(jnp.where(first, slots, -1), axis=1)
  return grouped(tokens, lead, capacity=capacity)
