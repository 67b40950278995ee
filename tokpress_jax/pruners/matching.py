"""What methods that match two halves of the tokens share (ToMe, PiToMe).

Dimension letters: B batch, N token slots, E metric features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import budgets
from tokpress_jax.types import Array, Signals, Tokens

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
