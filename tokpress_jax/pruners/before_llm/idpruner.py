"""IDPruner: importance and diversity (Tencent AngelSlim)."""

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
from tokpress_jax.types import Array, Ratio, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class IDPruner(selecting.Selecting):
  """Maximal marginal relevance of scores that a trained selector gives.

  Attributes:
    balance: 1 is importance alone, 0 diversity alone.
    at_once: tokens picked per step.
  """

  budget: budgets.Budget = Ratio(ratio=0.25, rounding='round')
  positions: positions_lib.Policy = 'keep'
  balance: float = 0.5
  at_once: int = 1

  needs: ClassVar[base.Needs] = frozenset({'importance'})
  ranges: ClassVar[checks.Ranges] = (
    ('balance', 0, 1),
    ('at_once', 1, None),
  )

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Picks by importance less likeness."""
    assert signals.importance is not None  # `plan` checks `needs`.
    free = tokens.valid & ~tokens.protected
    return selectors.relevant_and_diverse(
      scores.normalise(signals.importance, valid=free, by='minmax', eps=1e-6),
      similarities.cosine_rows(tokens.features, picks=limit),
      balance=self.balance,
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
      at_once=self.at_once,
    )
