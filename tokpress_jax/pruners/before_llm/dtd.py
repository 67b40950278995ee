"""DTD: differential token drop of TimeChat-Online (arXiv:2504.17343)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  frames,
  scores,
  selectors,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DTD(base.Pruner):
  """Drops what is as it was in the frame before, and keeps where it stood.

  A token leaves if its cosine to the same place of the frame before, kept there
  or not, is above the threshold. What has no frame before it is kept whole. It
  stands after the projector, a row being a video (`frames.frames_of`); shorter
  videos are padded by whole frames.

  How many change depends on the video: the budget is a capacity; where more do,
  those that changed most stay. It always holds the first frame. The official
  code's other measure, by pixels, is not here.

  Attributes:
    threshold: of the cosine.
  """

  budget: budgets.Budget = Ratio(ratio=0.5)
  positions: positions_lib.Policy = 'keep'
  threshold: float = 0.5

  ranges: ClassVar[checks.Ranges] = (('threshold', -1, 1),)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Compares frames."""
    number, size = frames.frames_of(tokens)
    change = scores.temporal_change(tokens.features, frames=number)
    before = frames.has_before(tokens.valid, frames=number)
    change = jnp.where(before, change, jnp.inf)
    kept, _ = selectors.within(
      change >= 1 - self.threshold,
      change,
      limit=jnp.maximum(budgets.row_counts(self.budget, tokens), size),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    capacity = budgets.capacity(self.budget, tokens)
    capacity = max(capacity, size + tokens.num_protected)
    return selectors.selection(tokens, kept, capacity=capacity)
