"""Questions that the text of an image answers: how often is a word in it?

Dimension letters: B texts, M codes of a text, V codes (`io.words`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from tokpress_jax.io import words as words_lib


def ask(
  text: jax.Array, rng: jax.Array, *, vocabulary: int
) -> tuple[jax.Array, jax.Array]:
  """Draws a word for each text: half of them of its own, half of all.

  Args:
    text: int [B, M], codes of a `WordCodec`.
    rng: a typed key.
    vocabulary: V.

  Returns:
    The words, int32 [B], and how often each is in its text, int32 [B].
  """
  first, behind = words_lib.START + 1, vocabulary - 1
  keys = jax.random.split(rng, 3)
  rows = text.shape[:1]
  anything = jax.random.randint(keys[0], rows, first, behind)
  inside = (text >= first) & (text < behind)
  at = jax.random.categorical(keys[1], jnp.where(inside, 0.0, -jnp.inf))
  own = jnp.take_along_axis(text, at[:, None], axis=1)[:, 0]
  take = jax.random.bernoulli(keys[2], 0.5, rows) & inside.any(axis=1)
  word = jnp.where(take, own, anything).astype(jnp.int32)
  return word, jnp.sum(text == word[:, None], axis=1, dtype=jnp.int32)
