"""PiToMe: merging that spares what is rare (Tran et al., arXiv:2405.16148).

A token's energy is high where many others look like it. Only tokens of high
energy merge; those of low energy, which carry what the others do not, stay.

Dimension letters: B batch, N token slots, E metric features.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import (
  base,
  budgets,
  matching,
  reduction,
  similarities,
)
from tokpress_jax.pruners.mergers.bipartite import check_pairs
from tokpress_jax.pruners.mergers.grouped import (
  count_free,
  grouped,
  rank_of,
  rows_last,
)
from tokpress_jax.types import Array, Ratio, Reduction, Signals, Tokens

Partition = Literal['energy', 'all']


def energy(similarity: Array, *, among: Array, margin: float) -> Array:
  """How much a token resembles the others (equation 4, as in the code).

  The official code's ELU, exp(x) - 1 below the margin; the paper scales it.

  Args:
    similarity: [B, N, N] cosines.
    among: [B, N] bool, the tokens that count, a token itself among them.
    margin: cosine above which similarity adds energy linearly.

  Returns:
    float32 [B, N], the mean of elu(cosine - margin).
  """
  value = jax.nn.elu(similarity.astype(jnp.float32) - margin)
  total = jnp.sum(jnp.where(among[:, None], value, 0), axis=2)
  return total / jnp.maximum(jnp.sum(among, axis=1), 1)[:, None]


def energy_bipartite(
  metric: Array,
  tokens: Tokens,
  *,
  count: Array | int,
  num_merged: int,
  margin: float = 0.5,
  partition: Partition = 'energy',
) -> Reduction:
  """Bipartite matching of tokens ordered by energy (algorithm 1).

  Tokens are dealt alternately to sets A and B by falling energy. With
  'energy' only the 2r tokens of most energy take part, and all r of A merge;
  with 'all' every token takes part, and the r closest pairs merge (the official
  code's `use_bsm_pitome`, which it sets in the first half of the layers).

  Args:
    metric: [B, N, E], the mean of the heads' keys.
    tokens: N slots; protected ones take no part.
    count: r, int [B] or one number, clipped to half of the unprotected tokens.
    num_merged: static upper bound of `count`, met by a row without padding;
      K = N - num_merged.
    margin: see `energy`.
    partition: see above.

  Returns:
    The reduction in the official order: protected tokens, the rest by falling
    energy (with 'all', the rest of A by falling similarity), B by energy.

  Raises:
    UserError: see `mergers.bipartite.check_pairs`.
  """
  count = check_pairs(count, tokens, metric=metric, num_merged=num_merged)
  free, _, number = count_free(tokens)
  pairs = similarities.cosine(jax.lax.stop_gradient(metric))
  rank = rank_of(energy(pairs, among=free, margin=margin), among=free)
  count = jnp.minimum(jnp.minimum(count, num_merged), number // 2)[:, None]
  taking_part = free if partition == 'all' else free & (rank < 2 * count)
  in_a, in_b = taking_part & (rank % 2 == 0), taking_part & (rank % 2 == 1)
  pairs = jnp.where(in_b[:, None], pairs, -jnp.inf)
  closeness = jnp.max(pairs, axis=2)
  merged = in_a
  by = rank
  if partition == 'all':
    by = jnp.where(in_a, rank_of(closeness, among=in_a), rank)
    merged = in_a & (by < count)
  slots = jnp.arange(free.shape[1], dtype=jnp.int32)[None]
  stays = tokens.valid & ~merged
  lead = jnp.where(stays, slots, jnp.argmax(pairs, axis=2).astype(jnp.int32))
  order = rows_last(tokens, by + jnp.where(in_b, free.shape[1], 0))
  return grouped(
    tokens,
    lead,
    capacity=free.shape[1] - num_merged,
    rank=order,
    num_merged=num_merged,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PiToMe(base.Pruner):
  """Merges tokens that resemble many others; stands where ToMe does.

  Attributes:
    margin: see `energy`; the official code lets it fall from 0.75 in the first
      layer towards 0 (`pitome_plan`).
    partition: see `energy_bipartite`.
    metric: see `ToMe`.
  """

  margin: float = 0.5
  partition: Partition = 'energy'
  metric: matching.Metric = 'keys'

  mode: ClassVar[reduction.Mode] = 'mass'

  @property
  def needs(self) -> frozenset[str]:  # type: ignore[override]
    """What the metric is made of."""
    return matching.needed(self.metric)

  def problems(self, tokens: Tokens) -> list[str]:
    """One matching merges at most a half."""
    hint = lambda: 'keep more, or merge in several layers (pitome_plan)'
    return matching.problems_of_half(self.budget, tokens, hint=hint)

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Matches the tokens."""
    num_merged = matching.pairs_to_merge(self.budget, tokens)
    if not num_merged:
      return reduction.identity(tokens)
    free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
    return energy_bipartite(
      matching.compared(self.metric, tokens, signals),
      tokens,
      count=free - budgets.row_counts(self.budget, tokens),
      num_merged=num_merged,
      margin=self.margin,
      partition=self.partition,
    )


def pitome_plan(ratio: float, *, depth: int) -> tuple[tuple[str, PiToMe], ...]:
  """PiToMe in every layer, with the official margins and partitions.

  Args:
    ratio: tokens that each layer keeps of what it gets; the official code keeps
      T - floor(T - T ratio) of T tokens beside the class token.
    depth: layers of the host.

  Returns:
    (site, pruner) pairs: margins 0.75 (1 - i / depth), all tokens matched in
    the first half of the layers (rounded up). The official ViTs, unlike ToMe's,
    do not add the masses to the attention: give the host proportional=False to
    be equal to them.
  """
  budget = Ratio(ratio=ratio, rounding='ceil')
  return tuple(
    (
      f'block_{i}.after_attention',
      PiToMe(
        budget=budget,
        margin=0.75 - 0.75 * i / depth,
        partition='all' if i < math.ceil(depth / 2) else 'energy',
      ),
    )
    for i in range(depth)
    if ratio < 1
  )
