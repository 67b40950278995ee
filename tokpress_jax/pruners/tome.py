"""ToMe: token merging (Bolya et al., arXiv:2210.09461)."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, budgets, mergers, reduction
from tokpress_jax.types import Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToMe(base.Pruner):
  """Merges the most similar tokens, by the mean of the heads' keys.

  It stands between attention and MLP, and its host adds the log of the tokens'
  masses to the attention logits.

  Attributes:
    order: see `mergers.bipartite`.
  """

  order: Literal['position', 'similarity'] = 'position'

  needs: ClassVar[frozenset[str]] = frozenset({'keys'})
  mode: ClassVar[reduction.Mode] = 'mass'

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Matches the tokens."""
    assert signals.keys is not None  # `plan` checks `needs`.
    slots = tokens.valid.shape[1]
    half = (slots - tokens.num_protected) // 2
    num_merged = slots - budgets.capacity(self.budget, tokens)
    if isinstance(self.budget, budgets.Remove):  # clipped, as published
      num_merged = min(num_merged, half)
    elif num_merged > half:
      raise UserError(
        f'one matching merges at most half of {slots} tokens, {half}, and this '
        f'budget asks for {num_merged} ({self.budget}); {self._least(tokens)}, '
        'or merge in several layers (tome_plan)'
      )
    if not num_merged:
      return reduction.identity(tokens)
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    return mergers.bipartite(
      signals.keys.astype(jnp.float32).mean(axis=1),
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


def tome_plan(
  r: int, *, depth: int, inflect: float = 0.0
) -> tuple[tuple[str, ToMe], ...]:
  """ToMe in every layer, as a plan for a host.

  Args:
    r: mean number of tokens merged per layer.
    depth: layers of the host.
    inflect: see `budgets.linear_schedule`.

  Returns:
    (site, pruner) pairs; layers in which nothing merges are left out.
  """
  return tuple(
    (f'block_{i}.after_attention', ToMe(budget=budgets.Remove(tokens=n)))
    for i, n in enumerate(budgets.linear_schedule(r, depth, inflect=inflect))
    if n > 0
  )
