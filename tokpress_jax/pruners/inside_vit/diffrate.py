"""DiffRate: prune, then merge, at learned rates (arXiv:2305.17997).

This page applies rates; `learned_rates` learns them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  mergers,
  reduction,
  scores,
  selectors,
)
from tokpress_jax.types import Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffRate(base.Pruner):
  """Drops what the class token ignores, and merges the next into the rest.

  It stands between attention and MLP. Tokens are ranked by the class token's
  attention, mean over heads; those beyond `left` are dropped; those beyond the
  budget join their most similar token before it, by the cosine of the
  features, and are averaged without weights. A slot takes over their masses
  times this similarity (at least 0; the official code subtracts mass where it
  is negative). Kept tokens are in falling order of attention.

  Attributes:
    left: tokens left after pruning, of any kind of budget; None prunes none.
  """

  left: budgets.Budget | None = None

  needs: ClassVar[frozenset[str]] = frozenset({'attention_row'})
  mode: ClassVar[reduction.Mode] = 'mean'

  def __post_init__(self):
    super().__post_init__()
    if self.left is not None:
      budgets.check(self.left)

  def problems(self, tokens: Tokens) -> list[str]:
    """Those of both budgets."""
    causes = super().problems(tokens)
    if self.left is not None:
      causes += [f'left: {x}' for x in budgets.problems(self.left, tokens)]
    return causes

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Ranks, prunes and merges."""
    assert signals.attention_row is not None  # `plan` checks `needs`.
    importance = scores.attention_row(signals.attention_row)
    count = budgets.row_counts(self.budget, tokens)
    kept, rank = selectors.top(
      importance, count=count, valid=tokens.valid, protected=tokens.protected
    )
    sources = tokens.valid
    if self.left is not None:
      left = jnp.maximum(budgets.row_counts(self.left, tokens), count)
      total = jnp.sum(tokens.protected, axis=1) + left
      sources &= rank < total[:, None]
    slots = tokens.valid.shape[1]
    capacity = budgets.capacity(self.budget, tokens)
    return mergers.nearest_kept(
      tokens.features,
      tokens,
      kept=kept,
      sources=sources,
      capacity=capacity,
      rank=rank,
      # A row may protect fewer tokens than the capacity has room for.
      num_merged=slots - capacity + tokens.num_protected,
      size_rule='similarity',
    )


def diffrate_plan(
  prune_kept: Sequence[int],
  merge_kept: Sequence[int],
  *,
  tokens: int,
  num_protected: int = 1,
) -> tuple[tuple[str, DiffRate], ...]:
  """DiffRate with the kept numbers of every layer, as a plan for a host.

  Args:
    prune_kept: tokens left after pruning in each layer, protected ones
      included (the official `prune_kept_num`).
    merge_kept: tokens left after merging (`merge_kept_num`).
    tokens: that enter the first layer, protected ones included.
    num_protected: class tokens.

  Returns:
    (site, pruner) pairs; layers in which nothing happens are left out. Numbers
    above what there is change nothing, as in the official code.

  Raises:
    UserError: if the lists differ in length or keep no token.
  """
  causes = []
  if len(prune_kept) != len(merge_kept):
    causes.append(
      f'one number per layer each: got {len(prune_kept)} for pruning and '
      f'{len(merge_kept)} for merging'
    )
  least = min([*prune_kept, *merge_kept, tokens])
  if least <= num_protected:
    causes.append(
      f'every layer keeps a token beside {num_protected} protected ones; got '
      f'{least}'
    )
  checks.refuse('this plan', causes)
  plan = []
  for layer, (pruned, merged) in enumerate(
    zip(prune_kept, merge_kept, strict=True)
  ):
    left = min(pruned, tokens)
    kept = min(merged, left)
    if kept < tokens:
      pruner = DiffRate(budget=kept - num_protected, left=left - num_protected)
      plan.append((f'block_{layer}.after_attention', pruner))
    tokens = kept
  return tuple(plan)
