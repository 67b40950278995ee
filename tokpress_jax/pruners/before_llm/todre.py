"""ToDRE, first stage: the least alike tokens (arXiv:2505.18757, section 4.1).

The second stage, which drops all visual tokens deep in the language model, is
one of a decoder. Written from the paper's second version.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from tokpress_jax.pruners import (
  base,
  budgets,
  scores,
  selecting,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Signals, Tap, Tokens

_ATTENTION = Tap('attention_row', -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToDRE(selecting.Selecting):
  """Max-sum diversity of the projected tokens from the class token's first.

  First the token that the class token attends to most in the last layer (with
  crops give it the thumbnail's: other tokens with 0), then, each time, the one
  whose cosines to all those chosen have the least sum.
  """

  budget: budgets.Budget = Ratio(ratio=0.1)
  positions: positions_lib.Policy = 'compact'

  needs: ClassVar[base.Needs] = frozenset({_ATTENTION})

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Picks farthest points, by the sum of distances."""
    rows = similarities.cosine_rows(tokens.features, picks=limit)
    return selectors.farthest(
      similarities.complement(rows),
      start=scores.attention_row(signals.taps[_ATTENTION]),
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
      to='all',
    )
