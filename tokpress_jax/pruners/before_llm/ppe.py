"""PPE: clusters that keep the places of several members.

Positional preservation embedding (arXiv:2510.22936), with the clustering of
Chat-UniVi (arXiv:2311.08046).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

from tokpress_jax.nn.positions import split_sections
from tokpress_jax.pruners import base, budgets, checks, mergers
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class PPE(base.Pruner):
  """Density-peak clusters become their means, at the places of 8 members.

  It stands after the projector. Positions have 3 axes (M-RoPE's time, row,
  column) before it and 3 K after it, `nn.split_sections(sections, K)` wide each
  in the rotary code; K must divide every section. Standing again inside the
  language model (the paper's cascade), it takes the places that tokens have.

  With fewer than 5 clusters the official code takes fewer neighbours; here
  `neighbours` is taken as it is.

  Attributes:
    budget: 0.45 of an image's tokens as published; of a video's frames 0.0625.
    positions: `Members(count=K, axes=3)`.
    sections: the rotary pairs of each axis, to check K by; Qwen2.5-VL's.
    neighbours: of the density.
    order: of the clusters: by falling score as in the official code, or by
      slot.
  """

  budget: budgets.Budget = Ratio(ratio=0.45, rounding='ceil')
  positions: positions_lib.Policy = positions_lib.Members(count=8, axes=3)
  sections: tuple[int, ...] = (16, 24, 24)
  neighbours: int = 5
  order: Literal['position', 'score'] = 'score'

  mode: ClassVar = 'mean'
  ranges: ClassVar[checks.Ranges] = (('neighbours', 1, None),)

  def __post_init__(self):
    super().__post_init__()
    if isinstance(self.positions, positions_lib.Members):
      split_sections(self.sections, self.positions.count)  # Raises.

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Clusters the features."""
    return mergers.dpc_knn(
      tokens.features,
      tokens,
      count=budgets.row_counts(self.budget, tokens),
      capacity=budgets.capacity(self.budget, tokens),
      neighbours=self.neighbours,
      order=self.order,
    )
