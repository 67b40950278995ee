"""HiRED: each crop's budget by what the whole image shows (arXiv:2408.10945).

Dimension letters: B batch, N token slots, G owners (thumbnail and crops).
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

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
from tokpress_jax.types import Ratio, Reduction, Signals, Tap, Tokens

_FIRST = Tap('attention_row', 0)
_LAST = Tap('attention_row', -2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiRED(base.Pruner):
  """Splits one budget over a thumbnail and its crops, then selects in each.

  The thumbnail has the share `alpha`. The rest goes to the crops as they hold
  the int(n (1 - alpha)) places of the thumbnail that the class token attends to
  most in the first layer. Within each, its attention in the last layer but one
  selects (heads summed). It takes what `join_crops` and `place_crops` give, and
  stands after the projector; kept tokens are the thumbnail's, then those of all
  crops in one raster. An image without crops keeps the thumbnail's share.

  Attributes:
    alpha: the thumbnail's share.
    split: how the thumbnail's places belong to crops: 'raster' as in the
      official code, which groups equally many places that follow each other in
      raster order, so that crops side by side get stripes of the image; or
      'blocks', the places that a crop shows.
  """

  budget: budgets.Budget = Ratio(ratio=0.2, rounding='floor')
  positions: positions_lib.Policy = 'compact'
  alpha: float = 0.5
  split: Literal['raster', 'blocks'] = 'raster'

  needs: ClassVar[base.Needs] = frozenset({_FIRST, _LAST})
  ranges: ClassVar[checks.Ranges] = (('alpha', 0, 1),)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Allocates by the first layer, selects by the last but one."""
    parts = crop_layouts.crop_of_places(tokens) - 1
    number = len(tokens.grids)
    free = tokens.valid & ~tokens.protected
    sizes = crop_layouts.sums(free, tokens.owner, number=number)
    sizes = sizes.astype(jnp.int32)
    whole = sizes[:, 0]
    if self.split == 'raster':
      first = free & (tokens.owner == 0)
      crops = crop_layouts.layout_of(tokens).prod(axis=1)[:, None]
      rank = jnp.cumsum(first, axis=1) - 1
      rank = rank * crops // jnp.maximum(whole, 1)[:, None]
      parts = jnp.where(first, rank, -1)
    # Truncated in Python, as 576 * (1 - alpha) is in the official code.
    slots = tokens.valid.shape[1]
    floor = lambda part: jnp.asarray(
      np.array([int(n * part) for n in range(slots + 1)], np.int32)
    )
    total = budgets.row_counts(self.budget, tokens)
    thumbnail = jnp.minimum(floor(self.alpha)[total], whole)
    crop_counts = allocators.by_top_count(
      scores.attention_row(signals.taps[_FIRST], heads='sum'),
      jnp.where(free, parts, -1),
      marked=floor(1 - self.alpha)[whole],
      total=jnp.minimum(total - thumbnail, sizes[:, 1:].sum(axis=1)),
      sizes=sizes[:, 1:],
    )
    kept, _ = selectors.top_grouped(
      scores.attention_row(signals.taps[_LAST], heads='sum'),
      group=tokens.owner,
      counts=jnp.concatenate([thumbnail[:, None], crop_counts], axis=1),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return selectors.selection(
      tokens,
      kept,
      capacity=budgets.capacity(self.budget, tokens),
      rank=crop_layouts.image_order(tokens),
    )
