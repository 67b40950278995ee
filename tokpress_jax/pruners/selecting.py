"""Pruners that keep some tokens as they are: a mask, then a reduction."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, budgets, selectors
from tokpress_jax.types import Array, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selecting(base.Pruner):
  """Base of these; a method writes `select`.

  Attributes:
    order: of the kept tokens, as they stood ('position') or as they were chosen
      ('score').
  """

  order: Literal['position', 'score'] = 'position'

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Chooses tokens.

    Args:
      tokens: N slots.
      signals: what the method needs.
      count: int32 [B], unprotected tokens to keep.
      limit: static upper bound of `count`, at least 1.

    Returns:
      kept [B, N] bool, and rank int32 [B, N] as `selectors` give it.
    """
    raise NotImplementedError

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Selects."""
    capacity = budgets.capacity(self.budget, tokens)
    chosen: Any = self.select(
      tokens,
      signals,
      count=budgets.row_counts(self.budget, tokens),
      limit=max(capacity - tokens.num_protected, 1),
    )
    if not isinstance(chosen, tuple | list) or len(chosen) != 2:
      raise UserError(
        f'{type(self).__name__}.select gave {_called(chosen)}; it gives (kept, '
        'rank), as the selectors do'
      )
    kept, rank = chosen
    return selectors.selection(
      tokens,
      kept,
      capacity=capacity,
      rank=rank if self.order == 'score' else None,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopK(Selecting):
  """Keeps the tokens of the highest scores; a method writes `score`."""

  def score(self, tokens: Tokens, signals: Signals) -> Array:
    """Gives [B, N], higher is kept."""
    raise NotImplementedError

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Selects by score."""
    score: Any = self.score(tokens, signals)
    if getattr(score, 'shape', None) != tokens.valid.shape:
      batch, slots = tokens.valid.shape
      raise UserError(
        f'{type(self).__name__}.score gave {_called(score)}; it gives a number '
        f'for each token, [B={batch}, N={slots}]'
      )
    return selectors.top(
      score,
      count=count,
      valid=tokens.valid,
      protected=tokens.protected,
    )


def _called(value: Any) -> str:
  """What a method of the user's gave, in words."""
  if isinstance(value, tuple):
    return f'a tuple of {len(value)}'
  shape = getattr(value, 'shape', None)
  return type(value).__name__ if shape is None else f'an array of {shape}'
