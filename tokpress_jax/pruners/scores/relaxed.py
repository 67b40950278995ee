"""What a score becomes where it is learned: hard forward, soft backward.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.pruners.scores import fixed
from tokpress_jax.types import Array


def straight_through(hard: Array, soft: Array) -> Array:
  """The value of `hard` with the gradient of `soft`.

  With `selectors.top`'s mask and `soft_top` it is a hard top-k that learns;
  with a threshold's mask and `binary_concrete`, a gate.

  Args:
    hard: any array, bool too.
    soft: float, of the same shape.

  Returns:
    float32, of the same shape.
  """
  soft = soft.astype(jnp.float32)
  hard = jax.lax.stop_gradient(hard.astype(jnp.float32))
  return hard + (soft - jax.lax.stop_gradient(soft))


def soft_top(
  scores: Array,
  *,
  count: Array,
  valid: Array,
  temperature: float = 1.0,
  steps: int = 64,
) -> Array:
  """Weights in (0, 1) that add up to a number of tokens (VisionSelector).

  sigmoid(x / T + t), with t found by bisection so that the weights of a row sum
  to `count` (arXiv:2510.16598). The gradient is exact: t moves with the scores.

  Args:
    scores: [B, N] logits.
    count: [B], tokens to keep; clipped to within 1e-4 of 0 and of all.
    valid: [B, N] bool.
    temperature: T; a lower one is closer to a hard top-k.
    steps: of the bisection.

  Returns:
    float32 [B, N]; 0 where padded.
  """
  x = scores.astype(jnp.float32) / temperature
  number = valid.sum(axis=1).astype(jnp.float32)
  count = jnp.clip(jnp.asarray(count, jnp.float32), 1e-4, number - 1e-4)
  known = jax.lax.stop_gradient(x)
  weigh = lambda x, t: jnp.where(valid, jax.nn.sigmoid(x + t[:, None]), 0)
  some = number > 0  # a row may hold protected tokens alone
  low = -10 - jnp.where(valid, known, -jnp.inf).max(axis=1)
  high = 10 - jnp.where(valid, known, jnp.inf).min(axis=1)
  low, high = jnp.where(some, low, 0), jnp.where(some, high, 0)

  def halve(_, bounds):
    low, high = bounds
    middle = (low + high) / 2
    few = weigh(known, middle).sum(axis=1) < count
    return jnp.where(few, middle, low), jnp.where(few, high, middle)

  low, high = jax.lax.fori_loop(0, steps, halve, (low, high))
  t = (low + high) / 2
  weight = weigh(known, t)
  slope = jnp.where(valid, weight * (1 - weight), 0).sum(axis=1)
  # Of value t, with t's derivative by the implicit function theorem.
  total = weigh(x, t).sum(axis=1)
  moved = total - jax.lax.stop_gradient(total)
  t = t - moved / jnp.maximum(jax.lax.stop_gradient(slope), 1e-20)
  return weigh(x, t)


def binary_concrete(
  logits: Array, *, rng: Array, valid: Array, temperature: float = 1.0
) -> Array:
  """A relaxed coin per token (Gumbel-sigmoid, arXiv:1611.00712).

  sigmoid((logits + logistic noise) / T): above 0.5 with probability
  sigmoid(logits).

  Args:
    logits: [B, N].
    rng: [B] typed keys.
    valid: [B, N] bool; the i-th valid token has the i-th noise of its key.
    temperature: T.

  Returns:
    float32 [B, N] in (0, 1); 0 where padded.
  """
  draw = lambda key: jax.random.logistic(key, logits.shape[1:])
  noise = jnp.take_along_axis(jax.vmap(draw)(rng), fixed.place(valid), axis=1)
  coin = jax.nn.sigmoid((logits.astype(jnp.float32) + noise) / temperature)
  return jnp.where(valid, coin, 0)
