"""VTC-CLS: what the class token saw in many layers (arXiv:2412.05819)."""

from __future__ import annotations

import dataclasses

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, budgets, scores, selecting
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Signals, Tap, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class VTCCLS(selecting.TopK):
  """Sums the class token's attention over layers, mean over heads.

  It stands before the projector.

  Attributes:
    layers: of the tower. The official code sums from a first layer, which it
      publishes no default of, up to the last but one: (-8, ..., -2), say.
  """

  budget: budgets.Budget = 64
  positions: positions_lib.Policy = 'compact'
  layers: tuple[int, ...] = tuple(range(-8, -1))

  def __post_init__(self):
    super().__post_init__()
    if not self.layers:
      raise UserError('VTC-CLS sums over at least one layer, got layers=()')

  @property
  def needs(self) -> base.Needs:  # type: ignore[override]
    """The class token's attention in these layers."""
    return frozenset(Tap('attention_row', n) for n in self.layers)

  def score(self, tokens: Tokens, signals: Signals) -> Array:
    """The sum over layers."""
    taps = (signals.taps[Tap('attention_row', n)] for n in self.layers)
    return sum(scores.attention_row(row) for row in taps)  # type: ignore
