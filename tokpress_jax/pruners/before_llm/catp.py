"""CATP, first stage: images in context (arXiv:2508.07871, section 3.2).

Written from the paper; the second stage ranks by attention inside the language
model.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  selecting,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class CATP(selecting.Selecting):
  """Facility location of an image's tokens plus alignment with its own text.

  Greedy on the sum over tokens of their largest similarity to a kept one, plus
  `alignment` times the kept ones' similarity to the mean of the text's
  embeddings; similarities are cosines moved to [0, 1]. It stands after the
  projector. Of a removal ratio R over both stages this one removes R / 2.

  Attributes:
    alignment: lambda_1.
  """

  budget: budgets.Budget = Ratio(ratio=0.611, rounding='floor')
  positions: positions_lib.Policy = 'keep'
  alignment: float = 0.7

  needs: ClassVar[base.Needs] = frozenset({'text', 'text_valid'})

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Covers greedily."""
    text, there = signals.text, signals.text_valid
    assert text is not None and there is not None  # `plan` checks `needs`.
    words = jnp.where(there[..., None], text.astype(jnp.float32), 0)
    number = jnp.maximum(there.sum(axis=1), 1)[:, None, None]
    mean = words.sum(axis=1, keepdims=True) / number
    alike = similarities.cosine(tokens.features, mean)[..., 0]
    # Twice the sums of the paper: cosines as they are, covered from -1.
    return selectors.coverage(
      self.alignment * (1 + alike),
      similarities.cosine(tokens.features),
      count=count,
      limit=limit,
      valid=tokens.valid,
      protected=tokens.protected,
      combine='add',
      floor=-1.0,
    )
