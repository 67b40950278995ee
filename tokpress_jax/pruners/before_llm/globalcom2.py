"""GlobalCom2: the thumbnail commands its crops (arXiv:2501.05179).

Dimension letters: B batch, N token slots, G owners (thumbnail and crops).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  allocators,
  base,
  budgets,
  checks,
  crop_layouts,
  scores,
  selectors,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tap, Tokens

_LOGITS = Tap('attention_logits', -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalCom2(base.Pruner):
  """Crops that the thumbnail looks at more keep more, by two views of them.

  Scores are the class token's attention in the last layer before the softmax,
  mean of the heads. The thumbnail keeps its share of the highest. A crop keeps
  `allocators.by_mass` of its own, by the sum of its score, scaled to length 1,
  and that of the thumbnail's enlarged to the whole image, likewise. It takes
  what `join_crops` and `place_crops` give, and stands after the projector.

  Kept are the thumbnail's tokens by falling score, as in the official code, and
  then those of all crops in one raster; the embedding of a new line behind each
  row of it is the language model's to add, by the rows in the positions.

  Attributes:
    budget: a `Ratio`; numbers of crops, rounded down, add up to about it.
    temperature: of the softmax over crops.
  """

  budget: budgets.Budget = Ratio(ratio=0.25, rounding='floor')
  positions: positions_lib.Policy = 'compact'
  temperature: float = 10.0

  needs: ClassVar[base.Needs] = frozenset({_LOGITS})
  ranges: ClassVar[checks.Ranges] = (('temperature', 1e-06, None),)

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.budget, Ratio):
      raise UserError(
        f'GlobalCom2 keeps a fraction of each crop: give Ratio(ratio=...), got '
        f'{self.budget!r}'
      )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Allocates by the thumbnail, selects by both views."""
    assert isinstance(self.budget, Ratio)  # `__post_init__` checks it.
    number = len(tokens.grids)
    free = tokens.valid & ~tokens.protected
    owner = jnp.where(free, tokens.owner, -1)
    own = scores.attention_row(signals.taps[_LOGITS])  # Logits, not a softmax.
    sizes = crop_layouts.sums(free, owner, number=number).astype(jnp.int32)
    covered = jnp.where(free, crop_layouts.crop_of_places(tokens), -1)
    ratio = self.budget.ratio
    thumbnail = jnp.floor(sizes[:, :1] * ratio + 1e-5).astype(jnp.int32)
    crops = allocators.by_mass(
      crop_layouts.sums(own, covered, number=number)[:, 1:],
      ratio=ratio,
      sizes=sizes[:, 1:],
      temperature=self.temperature,
    )

    def unit(x: Array) -> Array:
      """Scales each crop's scores to length 1."""
      squares = crop_layouts.sums(jnp.square(x), owner, number=number)
      length = jnp.maximum(jnp.sqrt(squares), 1e-12)
      return x / jnp.take_along_axis(length, jnp.maximum(owner, 0), axis=1)

    first = owner == 0
    both = unit(own) + unit(crop_layouts.over_crops(own, tokens))
    score = jnp.where(first, own, both)
    kept, by_score = selectors.top_grouped(
      score,
      group=owner,
      counts=jnp.concatenate([thumbnail, crops], axis=1),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    slots = owner.shape[1]
    order = jnp.where(first, by_score, slots + crop_layouts.image_order(tokens))
    order = jnp.where(tokens.protected, jnp.arange(slots)[None] - slots, order)
    return selectors.selection(
      tokens,
      kept,
      capacity=budgets.capacity(self.budget, tokens),
      rank=selectors.invert(jnp.argsort(order, axis=1)),
    )
