"""DivPrune: the most different tokens (Alvar et al., arXiv:2503.02175)."""

from __future__ import annotations

import dataclasses

from tokpress_jax.pruners import budgets, selecting, selectors, similarities
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivPrune(selecting.Selecting):
  """Max-min diversity of the projected tokens, whatever the text (section 3).

  First the token that is farthest from its nearest neighbour, then, each time,
  the one farthest from those chosen, by 1 - cosine.
  """

  budget: budgets.Budget = Ratio(ratio=0.098, rounding='round')
  positions: positions_lib.Policy = 'compact'

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Picks farthest points."""
    free = tokens.valid & ~tokens.protected
    gram = similarities.cosine(tokens.features)  # the first pick needs all
    return selectors.farthest(
      similarities.complement(similarities.gram_rows(gram)),
      start=-similarities.nearest_other(gram, free),
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
    )
