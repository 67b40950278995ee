"""PruMerge and PruMerge+: outliers of attention take others in (2403.15388).

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  mergers,
  scores,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tap, Tokens

_LOGITS = Tap('attention_logits', -1)
_KEYS = Tap('keys', -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruMerge(base.Pruner):
  """Keeps outliers of the class token's attention; each adds its neighbours.

  Attention is that of the last layer as one head (section 3.1). A kept token
  becomes itself plus the sum over the tokens of the nearest keys of attention
  times token; one more token is that sum over all that were not kept, added to
  others or not. Features are those of the last layer but one, before the
  projector.

  The softmax counts the class token, so observe the tower with
  `special='keep'`; it stays first, beside the budget (the official code leaves
  it out then). Without it the same tokens are kept, but weights are larger.

  How many are outliers depends on the image: the budget is a capacity, the last
  token included; where more are, the highest stay.

  Attributes:
    neighbours: added to each kept token.
  """

  budget: budgets.Budget = Ratio(ratio=0.25)
  positions: positions_lib.Policy = 'compact'
  neighbours: int = 32

  needs: ClassVar[base.Needs] = frozenset({_LOGITS, _KEYS})
  mode: ClassVar = 'sum'
  ranges: ClassVar[checks.Ranges] = (('neighbours', 1, None),)

  def select(self, tokens: Tokens, attention: Array) -> tuple[Array, Array]:
    """Outliers: kept [B, N] bool, and rank int32 [B, N]."""
    count = selectors.outliers(
      attention,
      free=tokens.valid & ~tokens.protected,
      limit=attention.shape[1],
    )
    return selectors.top(
      attention,
      count=jnp.minimum(count, budgets.row_counts(self.budget, tokens) - 1),
      valid=tokens.valid,
      protected=tokens.protected,
    )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Selects, adds neighbours, and sums what was not kept."""
    attention = scores.unsplit_attention(
      signals.taps[_LOGITS], valid=tokens.valid
    )
    kept, rank = self.select(tokens, attention)
    result = mergers.knn_weighted(
      similarities.join_heads(signals.taps[_KEYS]),
      tokens,
      kept=kept,
      weights=attention,
      capacity=budgets.capacity(self.budget, tokens) - 1,
      neighbours=self.neighbours,
      rank=rank,
    )
    return mergers.residual_token(
      result, tokens, weights=attention, sources=tokens.valid & ~kept
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PruMergePlus(PruMerge):
  """Evenly spaced tokens beside those of the highest attention.

  Every `step`-th token is kept, and the class token's attention chooses what
  is left of the budget; a token that both take is kept once. The published
  settings for 576 tokens, of "64", "128" and "256", are (budget, step) of (67,
  11), (137, 6) and (288, 3): 13, 40 and 95 by attention, steps of a third of
  33, 18 and 9, and the last token.

  Attributes:
    step: of the spaced tokens.
  """

  budget: budgets.Budget = 67
  step: int = 11

  ranges: ClassVar[checks.Ranges] = (
    ('step', 1, None),
    ('neighbours', 1, None),
  )

  def select(self, tokens: Tokens, attention: Array) -> tuple[Array, Array]:
    """Top attention, then a stride."""
    free = tokens.valid & ~tokens.protected
    spaced = scores.stride(free, step=self.step) > 0
    count = budgets.row_counts(self.budget, tokens) - 1

    def important(ask: Array, kept: Array) -> tuple[Array, Array]:
      return selectors.top(
        attention, count=ask, valid=tokens.valid, protected=kept
      )

    return selectors.staged(
      [
        (jnp.maximum(count - spaced.sum(axis=1), 0), important),
        (None, lambda ask, kept: spaced),
      ],
      count=count,
      valid=tokens.valid,
      protected=tokens.protected,
    )
