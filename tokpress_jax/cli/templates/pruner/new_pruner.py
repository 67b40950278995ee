"""A pruner, to be edited: what it does, and the paper with its equation.

As written it keeps the tokens whose keys are least like the mean key of their
row: score, budget, select, positions.

Dimension letters: B batch, N token slots, A heads, E head features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import Pruner, budgets, selectors, similarities
from tokpress_jax.types import Array, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewPruner(Pruner):
  """Keeps what is least like the rest.

  It has the fields of `Pruner` too: `budget` and `positions`. Fields are
  numbers, strings and tuples: a pruner is a static argument of `jit`.

  Attributes:
    power: of the distance.
  """

  power: float = 1.0

  # What `decide` reads of the signals; the host computes these alone.
  needs: ClassVar[frozenset[str]] = frozenset({'keys'})

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Scores and selects; the base checks inputs and sets the positions."""
    assert signals.keys is not None  # The base has checked `needs`.
    kept, _ = selectors.top(
      distance(signals.keys, valid=tokens.valid) ** self.power,
      count=budgets.row_counts(self.budget, tokens),  # [B], traced
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return selectors.selection(
      tokens,
      kept,
      capacity=budgets.capacity(self.budget, tokens),  # static
    )


def distance(keys: Array, *, valid: Array) -> Array:
  """How far each token's key is from the mean one.

  Args:
    keys: [B, A, N, E].
    valid: [B, N] bool; what is False must not count.

  Returns:
    float32 [B, N], in [0, 2].
  """
  x = keys.astype(jnp.float32).mean(axis=1)  # [B, N, E]
  inside = valid[..., None]
  total = jnp.sum(jnp.where(inside, x, 0), axis=1, keepdims=True)
  mean = total / jnp.maximum(inside.sum(axis=1, keepdims=True), 1)
  return 1 - similarities.cosine(x, mean)[..., 0]
