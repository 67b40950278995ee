"""Scores that look at nothing: random, stride, recency; they count slots.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.types import Array


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
  return jnp.take_along_axis(draw, place(valid), axis=1)


def stride(valid: Array, *, step: int, first: int = 0) -> Array:
  """1 for every step-th valid token, 0 for the others (PruMerge+).

  `selectors.spaced` instead spaces a given number of tokens evenly.

  Args:
    valid: [B, N] bool.
    step: 1 takes all.
    first: the first token that is taken.

  Returns:
    float32 [B, N].

  Raises:
    UserError: if the step is below 1.
  """
  if step < 1 or first < 0:
    raise UserError(f'a stride of {step} from {first} takes no tokens')
  at = place(valid) - first
  taken = valid & (at >= 0) & (at % step == 0)
  return taken.astype(jnp.float32)


def recency(valid: Array) -> Array:
  """The number of valid tokens before each one: the last is kept first.

  StreamingLLM is `protect(recency(valid), sinks(valid, count=4))`.
  """
  return place(valid).astype(jnp.float32)


def sinks(valid: Array, *, count: int) -> Array:
  """The first tokens of each row, [B, N] bool (StreamingLLM, 2309.17453)."""
  return valid & (place(valid) < count)


def place(valid: Array) -> Array:
  """The number of valid tokens before each one: int32 [B, N]."""
  return jnp.maximum(jnp.cumsum(valid, axis=1, dtype=jnp.int32) - 1, 0)
