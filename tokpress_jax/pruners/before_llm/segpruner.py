"""SeGPruner: salient tokens, then tokens spread in space (intcomp/SegPruner).

"Semantic-geometric visual token pruner for 3D question answering".
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from tokpress_jax.errors import UserError
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
from tokpress_jax.types import Array, Ratio, Signals, Tap, Tokens

_ATTENTION = Tap('attention_column', -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeGPruner(selecting.Selecting):
  """Top attention, then farthest points by place in space and by feature.

  int(budget * share) tokens are those that all queries of the last layer attend
  to most. From the next one on, each further token is the farthest from those
  that were so picked, by mix * distance / (largest distance from the first of
  them) + (1 - mix) * (1 - cosine). A row is one view; it stands before the
  projector. The code publishes no defaults of its numbers; the paper removes 91
  percent.

  `Tokens.positions` [B, N, 3] are the places in space that the patches' centres
  have by depth and camera.

  Attributes:
    share: of the budget that goes by attention.
    mix: what space counts beside features.
  """

  budget: budgets.Budget = Ratio(ratio=0.09)
  positions: positions_lib.Policy = 'compact'
  share: float = 0.5
  mix: float = 0.5

  needs: ClassVar[base.Needs] = frozenset({_ATTENTION})
  ranges: ClassVar[checks.Ranges] = (
    ('share', 0, 1),
    ('mix', 0, 1),
  )

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Attention, then farthest points."""
    points = tokens.positions
    if points.shape[-1] != 3:
      raise UserError(
        f'SeGPruner reads places in space from positions [B, N, 3], got '
        f'{points.shape}; give them as Tokens.create(positions=...)'
      )
    score = scores.attention_column(signals.taps[_ATTENTION])
    valid = tokens.valid

    def salient(ask: Array, kept: Array) -> tuple[Array, Array]:
      return selectors.top(score, count=ask, valid=valid, protected=kept)

    def spread(ask: Array, kept: Array) -> tuple[Array, Array]:
      rest = valid & ~kept
      first = jnp.argmax(jnp.where(rest, score, -jnp.inf), axis=1)
      far = similarities.reach(points, first, among=rest)
      alike = similarities.cosine_rows(tokens.features, picks=limit)
      near = similarities.complement(alike)
      space = similarities.distance_rows(points, scale=far)
      return selectors.farthest(
        similarities.mixture([(self.mix, space), (1 - self.mix, near)]),
        start=score,
        count=ask,
        limit=limit,
        valid=valid,
        protected=kept,
      )

    number = budgets.tabulate(
      lambda n: int(n * self.share), count, most=valid.shape[1]
    )
    return selectors.staged(
      [(number, salient), (None, spread)],
      count=count,
      valid=valid,
      protected=tokens.protected,
    )
