"""VisPruner: important tokens, then different ones (arXiv:2412.01818)."""

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
class VisPruner(selecting.Selecting):
  """A share by the class token's attention, the rest without near-duplicates.

  Attributes:
    share: of the budget that goes by attention.
    at_once: the most duplicates that leave in a round.
  """

  budget: budgets.Budget = Ratio(ratio=0.25, rounding='round')
  positions: positions_lib.Policy = 'compact'
  share: float = 0.5
  at_once: int = 8

  needs: ClassVar[base.Needs] = frozenset({_ATTENTION})
  ranges: ClassVar[checks.Ranges] = (
    ('share', 0, 1),
    ('at_once', 1, None),
  )

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Top attention, then what is unlike."""
    score = scores.attention_row(signals.taps[_ATTENTION])
    gram = similarities.cosine(tokens.features)
    valid = tokens.valid

    def important(ask: Array, kept: Array) -> tuple[Array, Array]:
      return selectors.top(score, count=ask, valid=valid, protected=kept)

    def different(ask: Array, kept: Array) -> Array:
      return selectors.without_duplicates(
        gram, count=ask, valid=valid, protected=kept, at_once=self.at_once
      )

    number = budgets.tabulate(
      lambda n: round(n * self.share), count, most=valid.shape[1]
    )
    return selectors.staged(
      [(number, important), (None, different)],
      count=count,
      valid=valid,
      protected=tokens.protected,
    )
