"""ZOO-Prune: tokens to which a projector is sensitive (arXiv:2509.24837).

Written from notes on the paper and a third party's code; the official
repository has no code yet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

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
from tokpress_jax.types import Array, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZOOPrune(selecting.Selecting):
  """Sensitivity of the projector times distance to what is kept.

  It stands before the projector. First the most sensitive token; then, each
  time, the largest product of sensitivity in [0, 1] and 1 - cosine to the
  nearest projected token that was chosen.

  Attributes:
    project: the projector, [B, N, D] to [B, N, E], each token by itself. A
      hashable function; of new weights make a new pruner, inside `jit`.
    probe: what is moved in its place, many times; the projector itself if None.
      For LLaVA-NeXT the paper takes one of rank 128
      (`compressors.factor_projector`: by singular values, which is our choice).
    directions: m random unit directions, shared by the tokens of a row.
    step: h, how far a token is moved to both sides.
  """

  project: Callable[[Array], Array]
  probe: Callable[[Array], Array] | None = None
  budget: budgets.Budget = 64
  positions: positions_lib.Policy = 'compact'
  directions: int = 64
  step: float = 0.01

  needs: ClassVar[base.Needs] = frozenset({'rng'})
  ranges: ClassVar[checks.Ranges] = (
    ('directions', 1, None),
    ('step', 1e-06, None),
  )

  def __post_init__(self):
    super().__post_init__()
    for name in ('project', 'probe'):
      given = getattr(self, name)
      if not (callable(given) or (name == 'probe' and given is None)):
        raise UserError(
          f'{name} is the projector, a function of [B, N, D], got {given!r}'
        )

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Picks by sensitivity and distance."""
    assert signals.rng is not None  # `plan` checks `needs`.
    free = tokens.valid & ~tokens.protected
    sensitivity = scores.zeroth_order(
      self.project if self.probe is None else self.probe,
      tokens.features,
      rng=signals.rng,
      directions=self.directions,
      step=self.step,
    )
    sensitivity = scores.normalise(sensitivity, valid=free, by='minmax')
    projected = self.project(tokens.features)
    rows = similarities.cosine_rows(projected, picks=limit)
    return selectors.farthest(
      similarities.complement(rows),
      start=sensitivity,
      weight=sensitivity,
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
    )
