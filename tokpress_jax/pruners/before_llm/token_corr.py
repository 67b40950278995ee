"""Token-level correlation-guided compression (arXiv:2407.14439).

Written from what reviews say of it: no code is public.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  checks,
  scores,
  selecting,
  selectors,
  similarities,
)
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Ratio, Signals, Tap, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenCorr(selecting.Selecting):
  """Each crop of a document keeps as much as it holds that is not repeated.

  Known of it: a patch is redundant if many patches of its crop have similar
  keys; a crop keeps its share of patches that are not; which ones the class
  token's attention says, in a pass for local and one for global information, of
  different layers. Ours, as nothing is known of them: the thresholds, the
  layers, that half of a crop's number (rounded up) go by the local layer and
  the rest by the global one, and that both take the highest scores, where the
  paper samples.

  A row is one crop, or all of them as `join_crops` gives them. It stands before
  the projector. How much is kept depends on the image: the budget is a
  capacity; beyond it, the highest of the global layer stay.

  Attributes:
    similarity: a cosine of keys above it is a repetition.
    repeats: how many of them make a patch redundant.
    local: the layer of the local pass.
    global_: the layer of the global pass, and of the keys.
  """

  budget: budgets.Budget = Ratio(ratio=0.5)
  positions: positions_lib.Policy = 'keep'
  similarity: float = 0.8
  repeats: int = 4
  local: int = -8
  global_: int = -2

  ranges: ClassVar[checks.Ranges] = (
    ('similarity', -1, 1),
    ('repeats', 1, None),
  )

  @property
  def needs(self) -> base.Needs:  # type: ignore[override]
    """Keys of one layer, the class token's attention in two."""
    return frozenset(
      {
        Tap('keys', self.global_),
        Tap('attention_row', self.global_),
        Tap('attention_row', self.local),
      }
    )

  def select(
    self, tokens: Tokens, signals: Signals, *, count: Array, limit: int
  ) -> tuple[Array, Array]:
    """Counts repetitions per crop, then selects in each."""
    valid, fixed = tokens.valid, tokens.protected & tokens.valid
    free = valid & ~fixed
    owner = jnp.where(free, tokens.owner, -1)
    keys = similarities.join_heads(signals.taps[Tap('keys', self.global_)])
    same = (owner[:, :, None] == owner[:, None]) & free[:, None]
    other = same & ~jnp.eye(free.shape[1], dtype=bool)[None]
    alike = other & (similarities.cosine(keys) > self.similarity)
    single = free & (alike.sum(axis=2) < self.repeats)
    # What a token's crop keeps; of a blank crop one token.
    number = jnp.maximum((same & single[:, None]).sum(axis=2), 1)
    row = lambda layer: scores.attention_row(
      signals.taps[Tap('attention_row', layer)]
    )
    slots = jnp.arange(free.shape[1])[None]

    def best(score: Array, among: Array, number: Array) -> Array:
      """The highest scores of each crop."""
      more = score[:, None] > score[:, :, None]
      tie = score[:, None] == score[:, :, None]
      more |= tie & (slots[:, None] < slots[:, :, None])
      before = (same & among[:, None] & more).sum(axis=2)
      return among & (before < number)

    half = (number + 1) // 2
    by_local = best(row(self.local), free, half)
    score = row(self.global_)
    by_global = best(score, free & ~by_local, number - half)
    return selectors.within(
      by_local | by_global, score, limit=count, valid=valid, protected=fixed
    )
