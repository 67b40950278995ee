"""AIM, first stage: tokens of a frame halved again and again (2412.03248).

The second stage ranks by PageRank inside the language model.

Dimension letters: B batch, N token slots, K kept slots.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, budgets, mergers, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Sparse, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class AIM(base.Pruner):
  """ToMe's matching of the embeddings themselves, halving by halving.

  Of n tokens n // 2 join another in the first round, n // 4 in the second, and
  so on; rounds see the means that rounds before them made, so that a token is
  a mean of means. It stands after the projector and pooling; a row is one image
  or one frame (`join_crops` puts frames in one row afterwards).

  Attributes:
    budget: Ratio of 1/2, 1/4 (as published), 1/8, ...: one round each.
  """

  budget: budgets.Budget = Ratio(ratio=0.25)
  positions: positions_lib.Policy = 'compact'

  mode: ClassVar = 'sum'

  def __post_init__(self):
    super().__post_init__()
    ratio = self.budget.ratio if isinstance(self.budget, Ratio) else 0.0
    if not 0 < ratio < 1 or math.log2(ratio) % 1:
      raise UserError(
        'AIM halves its tokens: give Ratio(ratio=...) with 1/2, 1/4, 1/8, ..., '
        f'got {self.budget!r}'
      )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Merges in rounds; M holds the weights of the means of means."""
    assert isinstance(self.budget, Ratio)  # `__post_init__` checks it.
    slots = tokens.valid.shape[1] - tokens.num_protected
    number = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    now, result = tokens, reduction.identity(tokens)
    weight: Array = jnp.ones(tokens.valid.shape, jnp.float32)
    left = slots
    for i in range(1, round(-math.log2(self.budget.ratio)) + 1):
      merged = min(slots // 2**i, left // 2)
      left -= merged
      step = mergers.bipartite(
        now.features,
        now,
        count=number // 2**i,
        num_merged=merged,
        order='similarity',
      )
      size = reduction.apply(step, jnp.ones(now.valid.shape), mode='sum')
      share = reduction.unmerge(step, 1 / jnp.maximum(size, 1))
      weight = weight * reduction.unmerge(result, share)
      now = reduction.reduce_tokens(now, step, mode='mean')
      result = reduction.compose(result, step)
    target = reduction.links(result.assign).target  # type: ignore[arg-type]
    return dataclasses.replace(
      result,
      assign=Sparse(target, weight[..., None]),
      # The weights are of features: masses add up whole.
      mass_share=1 / jnp.where(weight > 0, weight, 1),
    )
