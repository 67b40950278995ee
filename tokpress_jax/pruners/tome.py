"""ToMe: token merging (Bolya et al., arXiv:2210.09461)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, get_args

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, budgets, checks, mergers, reduction
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tokens

Metric = Literal['keys', 'queries', 'features']


def needed(metric: Metric) -> frozenset[str]:
  """Signals that a metric is made of.

  Raises:
    UserError: if the metric is unknown.
  """
  if metric not in get_args(Metric):
    raise UserError(
      f"unknown metric {metric!r}; try 'keys', 'queries' or 'features'"
    )
  return frozenset() if metric == 'features' else frozenset({metric})


def compared(metric: Metric, tokens: Tokens, signals: Signals) -> Array:
  """What tokens are compared by.

  Args:
    metric: its name.
    tokens: N slots.
    signals: with what `needed` says.

  Returns:
    float32 [B, N, E].
  """
  if metric == 'features':
    return tokens.features.astype(jnp.float32)
  heads = getattr(signals, metric)
  assert heads is not None  # `plan` checks `needs`.
  return heads.astype(jnp.float32).mean(axis=1)


def pairs_to_merge(budget: budgets.Budget, tokens: Tokens) -> int:
  """Pairs that one matching of two halves merges, static.

  Args:
    budget: what to keep; `Remove` is clipped to a half, as published.
    tokens: N slots.
  """
  slots = tokens.valid.shape[1]
  half = (slots - tokens.num_protected) // 2
  return min(slots - budgets.capacity(budget, tokens), half)


def problems_of_half(
  budget: budgets.Budget, tokens: Tokens, *, hint: Callable[[], str]
) -> list[str]:
  """Says why one matching cannot meet a budget, if so.

  Args:
    budget: what to keep.
    tokens: N slots.
    hint: what to do.
  """
  if causes := budgets.problems(budget, tokens):
    return causes
  slots = tokens.valid.shape[1]
  half = (slots - tokens.num_protected) // 2
  count = slots - budgets.capacity(budget, tokens)
  if isinstance(budget, budgets.Remove) or count <= half:
    return []
  return [
    f'one matching merges at most half of {slots} tokens, {half}, and this '
    f'budget asks for {count} ({budget}); {hint()}'
  ]


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
  metric: Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of."""
    return needed(self.metric)

  def problems(self, tokens: Tokens) -> list[str]:
    """One matching merges at most a half."""
    hint = lambda: (
      f'{self._least(tokens)}, or merge in several layers (tome_plan)'
    )
    return problems_of_half(self.budget, tokens, hint=hint)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Matches the tokens."""
    num_merged = pairs_to_merge(self.budget, tokens)
    if not num_merged:
      return reduction.identity(tokens)
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    return mergers.bipartite(
      compared(self.metric, tokens, signals),
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

  metric: Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of, and a key for each row."""
    return needed(self.metric) | {'rng'}

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Draws and matches."""
    assert signals.rng is not None  # `plan` checks `needs`.
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    slots = tokens.valid.shape[1]
    return mergers.random_bipartite(
      compared(self.metric, tokens, signals),
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

  metric: Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of."""
    return needed(self.metric)

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
      compared(self.metric, tokens, signals),
      tokens,
      k=round(1 / self.budget.ratio),
    )


def tome_plan(
  r: int | Sequence[int],
  *,
  depth: int,
  inflect: float = 0.0,
  metric: Metric = 'keys',
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
