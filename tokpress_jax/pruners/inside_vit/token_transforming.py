"""Many-to-many reduction by a soft matrix (Token Transforming's form).

Token Transforming (Zeng et al., arXiv:2506.05709) writes pruning, merging and
its own method as X' = W X with W of K rows. The paper's selection, similarity
and temperature are not public beyond the abstract: what chooses the rows and
weights here is our design, and its evidence is behaviour.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  matching,
  mergers,
  reduction,
  scores,
  selectors,
)
from tokpress_jax.types import Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenTransforming(base.Pruner):
  """Spreads every token over the ones that the class token attends to.

  Attributes:
    temperature: of the softmax over cosines; near 0 each token joins its most
      similar kept one.
    metric: see `ToMe`.
  """

  temperature: float = 0.1
  metric: matching.Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  def __post_init__(self):
    super().__post_init__()
    if not self.temperature > 0:
      raise UserError(
        f'a temperature is above 0, got {self.temperature}; 0.01 is close to '
        'joining the nearest token'
      )

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of, and the class token's attention."""
    return matching.needed(self.metric) | {'attention_row'}

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Chooses the rows and writes the matrix."""
    assert signals.attention_row is not None  # `plan` checks `needs`.
    kept, _ = selectors.top(
      scores.attention_row(signals.attention_row),
      count=budgets.row_counts(self.budget, tokens),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return mergers.soft_assign(
      matching.compared(self.metric, tokens, signals),
      tokens,
      kept=kept,
      capacity=budgets.capacity(self.budget, tokens),
      temperature=self.temperature,
    )
