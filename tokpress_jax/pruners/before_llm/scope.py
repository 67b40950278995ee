"""SCOPE: saliency and coverage (arXiv:2510.24214)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  scores,
  selecting,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Signals, Tap, Tokens

_ATTENTION = Tap('attention_row', -2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SCOPE(selecting.Selecting):
  """Picks, each time, what covers most that is not covered, times saliency.

  Attributes:
    alpha: exponent of the class token's attention.
  """

  budget: budgets.Budget = Ratio(ratio=0.25, rounding='round')
  positions: positions_lib.Policy = 'compact'
  alpha: float = 1.0

  needs: ClassVar[base.Needs] = frozenset({_ATTENTION})
  ranges: ClassVar[checks.Ranges] = (('alpha', 0, None),)

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Covers greedily."""
    saliency = scores.attention_row(signals.taps[_ATTENTION])
    return selectors.coverage(
      saliency**self.alpha,
      similarities.cosine(tokens.features),
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
    )
