"""DART: duplication matters more than importance (arXiv:2502.11494)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  scores,
  selecting,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import TEXT, Array, Ratio, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DART(selecting.Selecting):
  """Keeps a few pivots and what is least like each of them, in turn.

  Pivots are the image tokens of the largest norms, then words of the largest;
  words are protected tokens of kind `TEXT`, and stay anyway.

  Attributes:
    image_pivots: how many of the image.
    text_pivots: how many words, where there are any.
    by: what has a norm (the sum of absolute values): the 'keys' of the decoder
      layer at which it stands, heads end to end, as published; or the
      'features', where it stands before the language model.
  """

  budget: budgets.Budget = Ratio(ratio=0.25, rounding='round')
  positions: positions_lib.Policy = 'keep'
  image_pivots: int = 4
  text_pivots: int = 4
  by: Literal['keys', 'features'] = 'features'

  def __post_init__(self):
    super().__post_init__()
    if self.image_pivots < 1 or self.text_pivots < 0:
      raise UserError(
        f'at least 1 token of the image is a pivot, and words are 0 or more; '
        f'got {self.image_pivots} and {self.text_pivots}'
      )

  @property
  def needs(self) -> base.Needs:  # type: ignore[override]
    """Keys, if it goes by them."""
    return frozenset() if self.by == 'features' else frozenset({'keys'})

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Chooses pivots, then what is unlike them."""
    x = tokens.features
    if self.by == 'keys':
      assert signals.keys is not None  # `plan` checks `needs`.
      x = similarities.join_heads(signals.keys)
    norm = scores.norm(x, order=1)
    words = tokens.valid & tokens.protected & (tokens.kind == TEXT)

    def best(mask: Array, number: int) -> tuple[Array, Array]:
      number = min(number, mask.shape[1])
      high, at = jax.lax.top_k(jnp.where(mask, norm, -jnp.inf), number)
      return at, jnp.isfinite(high)

    image, is_image = best(tokens.valid & ~tokens.protected, self.image_pivots)
    text, is_text = best(words, self.text_pivots)
    return selectors.least_similar(
      similarities.cosine_rows(
        tokens.features, picks=self.image_pivots + self.text_pivots
      ),
      pivots=jnp.concatenate([image, text], axis=1),
      pivot_valid=jnp.concatenate([is_image, is_text], axis=1),
      count=count,
      valid=tokens.valid,
      protected=tokens.protected,
    )
