"""A pruner that learns its score, to be edited: what it does, and the paper.

As written it keeps the tokens of the highest learned score. Going forward this
is a selection; going backward the score has the gradient of a soft top-k.

Dimension letters: B batch, N token slots, K kept slots, D features.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  positions,
  reduction,
  scores,
  selectors,
)
from tokpress_jax.types import Dense, Reduction, Signals, Tokens


class NewPruner(nn.Module):
  """Keeps what its score has learned to keep.

  Attributes:
    budget: tokens to keep beside the protected ones.
    positions: the position policy, as `Pruner`'s.
    temperature: of the soft top-k; a lower one is closer to the hard one.
  """

  budget: budgets.Budget = 16
  positions: positions.Policy = 'keep'
  temperature: float = 1.0

  # What `plan` reads of the signals; the host computes these alone.
  needs: ClassVar[frozenset[str]] = frozenset()

  @nn.compact
  def plan(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> Reduction:
    """Decides, and moves nothing.

    Args:
      tokens: N slots.
      signals: at least what it `needs`.
      state: what the pruner before it carried on.

    Returns:
      From N to K slots, K static.
    """
    base.check(tokens, signals or Signals(), self.needs)
    x = tokens.features.astype(jnp.float32)
    score = nn.Dense(1, name='score')(x)[..., 0]  # [B, N]
    count = budgets.row_counts(self.budget, tokens)  # [B], traced
    kept, _ = selectors.top(
      score, count=count, valid=tokens.valid, protected=tokens.protected
    )
    soft = scores.soft_top(
      score,
      count=count,
      valid=tokens.valid & ~tokens.protected,
      temperature=self.temperature,
    )
    gate = scores.straight_through(kept, soft)  # 0 or 1, with soft's gradient
    gate = jnp.where(tokens.protected, 1, gate)
    chosen = selectors.selection(
      tokens,
      kept,
      capacity=budgets.capacity(self.budget, tokens),  # static
    )
    matrix = reduction.dense(chosen) * gate[:, None]  # [B, K, N]
    result = dataclasses.replace(chosen, assign=Dense(matrix))
    return positions.place(tokens.positions, result, policy=self.positions)

  def __call__(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies: kept features times their gates, which are 1."""
    result = self.plan(tokens, signals, state)
    return reduction.reduce_tokens(tokens, result, mode='sum'), result
