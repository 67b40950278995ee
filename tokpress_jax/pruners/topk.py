"""Pruners that keep the tokens of the highest scores, and two baselines.

A method is a score: subclass `TopK`, name what it `needs`, write `score`.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tokpress_jax.pruners import base, budgets, scores, selectors
from tokpress_jax.pruners.selecting import TopK
from tokpress_jax.types import Array, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopAttention(TopK):
  """Keeps what the class token attends to (EViT, arXiv:2202.07800, eq. 4)."""

  needs: ClassVar[frozenset[str]] = frozenset({'attention_row'})

  def score(self, tokens: Tokens, signals: Signals) -> Array:
    """The class token's attention, mean over heads."""
    assert signals.attention_row is not None  # `plan` checks `needs`.
    return scores.attention_row(signals.attention_row)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopNorm(TopK):
  """Keeps the longest features."""

  def score(self, tokens: Tokens, signals: Signals) -> Array:
    """The length of each token's features."""
    return scores.norm(tokens.features)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(TopK):
  """Baseline: keeps tokens at random."""

  needs: ClassVar[frozenset[str]] = frozenset({'rng'})

  def score(self, tokens: Tokens, signals: Signals) -> Array:
    """Uniform numbers."""
    assert signals.rng is not None  # `plan` checks `needs`.
    return scores.random(signals.rng, tokens.valid)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stride(base.Pruner):
  """Baseline: keeps evenly spaced tokens, counted in slot order.

  In a raster whose width the spacing divides these are whole columns.
  """

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Selects by slot number."""
    kept = selectors.spaced(
      count=budgets.row_counts(self.budget, tokens),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return selectors.selection(
      tokens, kept, capacity=budgets.capacity(self.budget, tokens)
    )
