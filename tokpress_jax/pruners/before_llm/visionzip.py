"""VisionZip: dominant tokens, and the rest in a few (arXiv:2412.04467)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  mergers,
  reduction,
  scores,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Ratio, Reduction, Signals, Tap, Tokens

_ATTENTION = Tap('attention_row', -2)
_KEYS = Tap('keys', -2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionZip(base.Pruner):
  """Keeps what the class token attends to; evenly spaced targets take the rest.

  The dominant tokens stay as they are. Of the others, evenly spaced ones are
  targets, and each remaining one joins the target of the most similar key (mean
  of the heads). It stands before the projector.

  The class token is one of the official code's dominant tokens: observe the
  tower with `special='keep'`, and it stays beside the budget. So the published
  54 + 10, 108 + 20 and 162 + 30 tokens are budgets of 63, 127 and 191.

  Attributes:
    contextual: how many of the budget are targets; a `Ratio` is of the budget.
    merge: a slot is its target plus the mean of what joined it, not divided
      again ('target_mean', the official code), or the mean of all ('mean',
      AngelSlim).
  """

  budget: budgets.Budget = 63
  positions: positions_lib.Policy = 'compact'
  contextual: int | Ratio = Ratio(ratio=10 / 64)
  merge: Literal['target_mean', 'mean'] = 'target_mean'

  needs: ClassVar[base.Needs] = frozenset({_ATTENTION, _KEYS})

  def __post_init__(self):
    super().__post_init__()
    budgets.check(self.contextual)
    if isinstance(self.contextual, int) and self.contextual < 1:
      raise UserError(
        f'VisionZip merges into at least 1 token, got contextual='
        f'{self.contextual}'
      )

  @property
  def mode(self) -> reduction.Mode:  # type: ignore[override]
    """How features move."""
    return self.merge

  def problems(self, tokens: Tokens) -> list[str]:
    """The budget, and that some of it is left for dominant tokens."""
    if causes := super().problems(tokens):
      return causes
    kept = budgets.capacity(self.budget, tokens) - tokens.num_protected
    targets = budgets.resolve(self.contextual, kept, kept)
    if targets < kept:
      return []
    return [
      f'all {kept} tokens of the budget are targets (contextual='
      f'{self.contextual}) and none is dominant; give fewer, as 10 of 64'
    ]

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Top attention, then merging into evenly spaced targets."""
    count = budgets.row_counts(self.budget, tokens)
    targets = budgets.tabulate(
      lambda n: budgets.resolve(self.contextual, n, n),
      count,
      most=tokens.valid.shape[1],
    )
    dominant, _ = selectors.top(
      scores.attention_row(signals.taps[_ATTENTION], heads='sum'),
      count=count - targets,
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return mergers.uniform_targets(
      similarities.mean_heads(signals.taps[_KEYS]),
      tokens,
      count=targets,
      capacity=budgets.capacity(self.budget, tokens),
      kept=dominant,
    )
