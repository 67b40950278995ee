"""HiPrune: anchors, their neighbours, registers (arXiv:2508.00553)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  scores,
  selecting,
  selectors,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Signals, Tap, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiPrune(selecting.Selecting):
  """What a middle layer and a deep layer look at, from all queries.

  round(budget * share / 5) anchors are what all queries of a middle layer
  attend to most; the tokens left, right, above and below them stay too; the
  rest of the budget goes to what a deep layer attends to. It stands after the
  projector. Positions: 'compact' in LLaVA, 'keep' in Qwen2.5-VL.

  Attributes:
    middle: the layer of the anchors, counted from 0 (the paper's 9 of CLIP's
      24).
    deep: the layer of the registers, the one whose output is read.
    share: of the budget that anchors with their neighbours take.
    width: columns of the grid; those of the tokens' own grid if None.
    edges: see `selectors.dilate`; 'clamp' is the official code's, in which
      neighbours go on in the next row.
  """

  budget: budgets.Budget = 192
  positions: positions_lib.Policy = 'compact'
  middle: int = 8
  deep: int = -2
  share: float = 0.1
  width: int | None = None
  edges: selectors.Edges = 'clamp'

  ranges: ClassVar[checks.Ranges] = (
    ('share', 0, 1),
    ('width', 1, None),
  )

  @property
  def needs(self) -> base.Needs:  # type: ignore[override]
    """Attention received in both layers."""
    return frozenset(Tap('attention_column', n) for n in self._layers)

  @property
  def _layers(self) -> tuple[int, int]:
    return self.middle, self.deep

  def _columns(self, tokens: Tokens) -> int:
    """Columns of the grid.

    Raises:
      UserError: if nothing says them, or the tokens are no whole grid.
    """
    if self.width is not None:
      return self.width
    free = tokens.valid.shape[1] - tokens.num_protected
    grid = tokens.grids[0] if len(tokens.grids) == 1 else (0, 0, 0)
    if free != math.prod(grid):
      raise UserError(
        f'HiPrune looks for neighbours in one whole grid, got {free} tokens '
        f'and grids {tokens.grids}. Let it act on each crop before join_crops, '
        'and before any other pruner, or give width'
      )
    return grid[2]

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Anchors and their neighbours, then registers."""
    width = self._columns(tokens)
    received = [
      scores.attention_column(signals.taps[Tap('attention_column', n)])
      for n in self._layers
    ]
    valid = tokens.valid

    def anchors(ask: Array, kept: Array) -> Array:
      chosen, _ = selectors.top(
        received[0], count=ask, valid=valid, protected=kept
      )
      return selectors.dilate(
        chosen & ~kept,
        width=width,
        valid=valid,
        protected=tokens.protected,
        edges=self.edges,
      )

    def registers(ask: Array, kept: Array) -> tuple[Array, Array]:
      return selectors.top(received[1], count=ask, valid=valid, protected=kept)

    # Rounded in Python, where halves go to the even number.
    number = budgets.tabulate(
      lambda n: round(n * self.share / 5), count, most=valid.shape[1]
    )
    return selectors.staged(
      [(number, anchors), (None, registers)],
      count=count,
      valid=valid,
      protected=tokens.protected,
    )
