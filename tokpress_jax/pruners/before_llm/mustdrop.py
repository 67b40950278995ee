"""MustDrop, the vision stage: alike windows, and a key set (arXiv:2411.10803).

The later stages filter inside the language model and its cache.

Dimension letters: B batch, A heads, N token slots.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  mergers,
  scores,
  selectors,
)
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class MustDrop(base.Pruner):
  """Windows of alike tokens become one, after the first layer of the tower.

  It stands at the site 'block_0.after_mlp'. Windows of 3 x 3 places whose
  tokens have a mean cosine of at least 0.8 become their mean. The official code
  merges as many windows in each image of a batch as the one with the fewest;
  here each image has its own number. It puts merged windows first; here slots
  stay in raster order.

  How many are left depends on the image: the budget is a capacity. Below the
  default, which is every slot, the next windows by their likeness are merged
  too, until it is met.

  Attributes:
    window: its side.
    threshold: of the mean cosine.
  """

  budget: budgets.Budget = Ratio(ratio=1.0)
  window: int = 3
  threshold: float = 0.8

  mode: ClassVar = 'mass'
  ranges: ClassVar[checks.Ranges] = (('window', 2, None),)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Merges windows."""
    return mergers.windows(
      tokens,
      size=(self.window, self.window),
      capacity=budgets.capacity(self.budget, tokens),
      metric=tokens.features,
      threshold=self.threshold,
      at_most=budgets.row_counts(self.budget, tokens),
    )


def key_set(row: Array, *, free: Array, share: float = 0.08) -> Array:
  """The tokens that MustDrop never drops later.

  Mark them as `Tokens.protected` for what prunes behind the tower.

  Args:
    row: [B, A, N] attention of the class token, in the last layer.
    free: [B, N] bool, the patches that are there.
    share: of them, rounded up.

  Returns:
    bool [B, N].
  """
  kept, _ = selectors.top(
    scores.attention_row(row),
    count=budgets.tabulate(
      lambda n: math.ceil(share * n), free.sum(axis=1), most=free.shape[1]
    ),
    valid=free,
    protected=jnp.zeros_like(free),
  )
  return kept


__all__ = ['MustDrop', 'key_set']
