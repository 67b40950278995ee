"""Recoverable Compression: what the text brings back (arXiv:2409.01179).

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  mergers,
  scores,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Ratio, Reduction, Signals, Tap, Tokens

_LOGITS = Tap('attention_logits', -1)
_KEYS = Tap('keys', -1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recoverable(base.Pruner):
  """Outliers of attention, outliers of likeness to the text, and clusters.

  The class token's attention in the last layer, as one head (see `PruMerge`:
  observe with `special='keep'`), keeps as many tokens as it has local outliers.
  So does the likeness to the question among the others. Among what is left,
  outliers of attention are centres; each adds its neighbours, by keys and by
  the text, times their attention, and one more token is that sum over all that
  is no centre (without centres there is none).

  `Signals.importance` is the likeness to the text: cosines of CLIP's projected
  patches to its projected question, `scores.text_similarity`.

  Not as in the code are the keys: it looks those of what is left up by their
  number among what is left, in the keys of all. How many are kept depends on
  the data: the budget is a capacity, the last token included; text and centres
  get what is left of it.

  Attributes:
    neighbours: added to each centre.
    weight: of the likeness to the text beside the cosine of keys; the code has
      50 times a cosine that is divided by the root of CLIP's 768 features.
    outlier_neighbours: of the local outlier factors, by step.
    centres: what the share of outliers among what is left is taken of: of the
      'width' of the features as in the code (1,024 for CLIP-L: there are more
      centres than outliers), or of the 'rest'.
  """

  budget: budgets.Budget = Ratio(ratio=0.25)
  positions: positions_lib.Policy = 'compact'
  neighbours: int = 32
  weight: float = 50 / 768**0.5
  outlier_neighbours: tuple[int, int, int] = (20, 20, 10)
  centres: Literal['width', 'rest'] = 'width'

  needs: ClassVar[base.Needs] = frozenset({_LOGITS, _KEYS, 'importance'})
  mode: ClassVar = 'sum'
  ranges: ClassVar[checks.Ranges] = (('neighbours', 1, None),)

  def __post_init__(self):
    super().__post_init__()
    if min(self.outlier_neighbours) < 1:
      raise UserError(
        'a local outlier factor has at least 1 neighbour, got '
        f'outlier_neighbours={self.outlier_neighbours}'
      )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Three steps of outliers, then merging."""
    text = signals.importance
    assert text is not None  # `plan` checks `needs`.
    valid, fixed = tokens.valid, tokens.protected & tokens.valid
    free, slots = valid & ~fixed, valid.shape[1]
    total = free.sum(axis=1)
    most = budgets.row_counts(self.budget, tokens) - 1
    attention = scores.unsplit_attention(signals.taps[_LOGITS], valid=valid)
    by_eye, by_text, by_rest = self.outlier_neighbours

    def outliers(score, among, near):
      return selectors.local_outliers(
        score, free=among, limit=slots, neighbours=near
      )

    first = jnp.minimum(outliers(attention, free, by_eye), most)
    seen, _ = selectors.top(
      attention, count=first, valid=valid, protected=fixed
    )
    low = jnp.where(free, text, jnp.inf).min(axis=1, keepdims=True)
    text = jnp.where(seen, low, text)
    number = (total - first) * outliers(text, free, by_text)
    second = number // jnp.maximum(total, 1)
    second = jnp.minimum(second, most - first)
    alone, _ = selectors.top(text, count=second, valid=valid, protected=seen)

    rest = free & ~alone
    third = outliers(attention, rest, by_rest)
    if self.centres == 'width':
      third = tokens.features.shape[-1] * third
      third = third // jnp.maximum(rest.sum(axis=1), 1)
    third = jnp.minimum(third, most - first - second)
    kept, rank = selectors.top(
      jnp.where(alone, 0, attention),  # Those alone by slot.
      count=third,
      valid=valid,
      protected=alone,
    )
    result = mergers.knn_weighted(
      similarities.join_heads(signals.taps[_KEYS]),
      dataclasses.replace(tokens, protected=alone),
      kept=kept,
      weights=attention,
      capacity=budgets.capacity(self.budget, tokens) - 1,
      neighbours=self.neighbours,
      bonus=self.weight * text,
      rank=rank,
    )
    some = (third > 0)[:, None]
    return mergers.residual_token(
      result, tokens, weights=attention, sources=rest & ~kept & some
    )
