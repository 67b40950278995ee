"""ToMe: token merging (Bolya et al., arXiv:2210.09461)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  matching,
  mergers,
  reduction,
)
from tokpress_jax.types import Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToMe(base.Pruner):
  """Merges the most similar tokens, by the mean of the heads' keys.

  It stands between attention and MLP, and its host adds the log of the tokens'
  masses to the attention logits.

  Attributes:
    order: see `mergers.bipartite`.
    metric: what is compared: the layer's keys or queries, mean over the heads,
      or the features themselves (AIM).
  """

  order: Literal['position', 'similarity'] = 'position'
  metric: matching.Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of."""
    return matching.needed(self.metric)

  def problems(self, tokens: Tokens) -> list[str]:
    """One matching merges at most a half."""
    hint = lambda: (
      f'{self._least(tokens)}, or merge in several layers (tome_plan)'
    )
    return matching.problems_of_half(self.budget, tokens, hint=hint)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Matches the tokens."""
    num_merged = matching.pairs_to_merge(self.budget, tokens)
    if not num_merged:
      return reduction.identity(tokens)
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    return mergers.bipartite(
      matching.compared(self.metric, tokens, signals),
      tokens,
      count=free - budgets.row_counts(self.budget, tokens),
      num_merged=num_merged,
      order=self.order,
    )

  def _least(self, tokens: Tokens) -> str:
    """Says the smallest budget that one matching can meet."""
    free = tokens.valid.shape[1] - tokens.num_protected
    source = tokens.source_slots - tokens.num_protected
    least = free - free // 2
    like = self.budget if isinstance(self.budget, Ratio) else Ratio(ratio=1)
    ratios = (dataclasses.replace(like, ratio=i / 100) for i in range(1, 101))
    ratio = next(
      r for r in ratios if budgets.resolve(r, free, source) >= least
    ).ratio
    return (
      f'keep at least {least} of the {free} that may merge (a budget of '
      f'{least} or Ratio(ratio={ratio}); `tokpress prune --keep {ratio}`)'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomToMe(base.Pruner):
  """Tokens drawn at random join the most similar others.

  The official `random_bipartite_soft_matching`: ToMe without its choice of the
  closest pairs, and without the limit of a half.

  Attributes:
    metric: see `ToMe`.
  """

  metric: matching.Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of, and a key for each row."""
    return matching.needed(self.metric) | {'rng'}

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Draws and matches."""
    assert signals.rng is not None  # `plan` checks `needs`.
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    slots = tokens.valid.shape[1]
    return mergers.random_bipartite(
      matching.compared(self.metric, tokens, signals),
      tokens,
      rng=signals.rng,
      count=free - budgets.row_counts(self.budget, tokens),
      num_merged=slots - budgets.capacity(self.budget, tokens),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EveryKth(base.Pruner):
  """Every k-th token takes the others in.

  The official `kth_bipartite_soft_matching`; k is the inverse of the ratio,
  which is how the budget must be given. The tail beyond the last k-th token is
  dropped.

  Attributes:
    metric: see `ToMe`.
  """

  metric: matching.Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of."""
    return matching.needed(self.metric)

  def __post_init__(self):
    super().__post_init__()
    budget = self.budget
    k = round(1 / budget.ratio) if isinstance(budget, Ratio) else 0
    if k < 2 or abs(k * budget.ratio - 1) > 1e-6:  # type: ignore[union-attr]
      raise UserError(
        f'every k-th token is kept, so the budget is Ratio(ratio=1 / k) with k '
        f'at least 2; got {budget}'
      )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Matches the tokens."""
    assert isinstance(self.budget, Ratio)
    return mergers.kth_bipartite(
      matching.compared(self.metric, tokens, signals),
      tokens,
      k=round(1 / self.budget.ratio),
    )


def tome_plan(
  r: int | Sequence[int],
  *,
  depth: int,
  inflect: float = 0.0,
  metric: matching.Metric = 'keys',
) -> tuple[tuple[str, ToMe], ...]:
  """ToMe in every layer, as a plan for a host.

  Args:
    r: mean number of tokens merged per layer, or the number of each layer (the
      layers that it does not reach merge nothing).
    depth: layers of the host.
    inflect: see `budgets.linear_schedule`; of a mean number only.
    metric: see `ToMe`.

  Returns:
    (site, pruner) pairs; layers in which nothing merges are left out.

  Raises:
    UserError: if there are more numbers than layers, or negative ones.
  """
  if isinstance(r, int):
    counts: Sequence[int] = budgets.linear_schedule(r, depth, inflect=inflect)
  else:
    counts = tuple(r)
  causes = []
  if len(counts) > depth:
    causes.append(f'{len(counts)} numbers for {depth} layers; give fewer')
  if min(counts, default=0) < 0:
    causes.append(
      f'numbers of merged tokens are at least 0, got {list(counts)}; give r of '
      'at least 0, and inflect in [-1, 1]'
    )
  checks.refuse('this plan', causes)
  return tuple(
    (
      f'block_{i}.after_attention',
      ToMe(budget=budgets.Remove(tokens=n), metric=metric),
    )
    for i, n in enumerate(counts)
    if n > 0
  )
