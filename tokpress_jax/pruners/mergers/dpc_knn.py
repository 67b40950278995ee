"""DPC-KNN: clusters around dense tokens that lie far from denser ones.

Dimension letters: B batch, N token slots, K kept slots, E metric features.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import checks, similarities
from tokpress_jax.pruners.mergers.grouped import (
  count_free,
  grouped,
  rank_of,
  rows_last,
)
from tokpress_jax.types import Array, Reduction, Tokens


def dpc_knn(
  metric: Array,
  tokens: Tokens,
  *,
  count: Array | int,
  capacity: int,
  neighbours: int = 5,
  order: Literal['position', 'score'] = 'position',
) -> Reduction:
  """Density peaks with nearest neighbours (Chat-UniVi, PPE, SparseVLM).

  Distances are divided by the root of the width E. A token's density is
  exp(-mean squared distance to its nearest tokens, itself among them); its
  score is the density times the distance to the nearest denser token, or the
  row's largest distance if none is denser. The best `count` are centres, and
  every other token joins its nearest centre (Du et al., 2016; TCFormer,
  arXiv:2204.08680, section 3.2).

  The official codes add noise of 1e-6 to the densities; here ties go to the
  earlier slot.

  Args:
    metric: [B, N, E].
    tokens: N slots; protected ones stay alone and count nowhere.
    count: clusters of each row, int [B] or one number.
    capacity: K, at least the clusters and the protected tokens of a row.
    neighbours: of the density; Chat-UniVi 5, SparseVLM as many as clusters.
    order: of the kept tokens: by slot, or protected ones and then the centres
      by falling score.

  Returns:
    The reduction; a slot's representative is its centre.

  Raises:
    UserError: if a number does not fit; see `checks.row_counts`.
  """
  count = checks.row_counts(
    count,
    valid=tokens.valid,
    protected=tokens.protected,
    static=[
      ('capacity', capacity, 0, None),
      ('neighbours', neighbours, 1, None),
    ],
    metric=metric,
  )
  free, _, number = count_free(tokens)
  x = jax.lax.stop_gradient(metric.astype(jnp.float32))
  distance = similarities.scaled_distance(x)
  both = free[:, None] & free[:, :, None]
  apart = jnp.where(both, distance, jnp.inf)
  near = _smallest(apart, min(neighbours, x.shape[1]))
  there = jnp.isfinite(near)
  squares = jnp.sum(jnp.where(there, near, 0) ** 2, axis=-1)
  density = jnp.exp(-squares / jnp.maximum(there.sum(axis=-1), 1))

  place = rank_of(density, among=free)
  denser = place[:, None] < place[:, :, None]  # [B, N, N], j denser than i
  far = jnp.max(jnp.where(both, distance, 0), axis=(1, 2))[:, None]
  parent = jnp.min(jnp.where(denser, apart, jnp.inf), axis=2)
  score = density * jnp.minimum(parent, far)
  rank = rank_of(score, among=free)
  centre = free & (rank < jnp.minimum(count, number)[:, None])

  at = jnp.arange(x.shape[1], dtype=jnp.int32)[None]
  # Equal distances go to the centre of the higher score, as in the papers.
  to_centre = jnp.where(centre[:, None], distance, jnp.inf)
  least = to_centre == jnp.min(to_centre, axis=2, keepdims=True)
  first = jnp.argmin(jnp.where(least, rank[:, None], x.shape[1]), axis=2)
  joins = free & centre.any(axis=1, keepdims=True)
  centres = centre | (tokens.protected & tokens.valid)
  checks.refuse('this merger', checks.slots_causes(centres, capacity))
  lead = jnp.where(joins, first.astype(jnp.int32), -1)
  lead = jnp.where(centres, at, lead)
  by_score = rows_last(tokens, rank) if order == 'score' else None
  return grouped(tokens, lead, capacity=capacity, rank=by_score)


def _smallest(x: Array, number: int) -> Array:
  """The smallest of each row [B, N, N]: [B, N, number], rising.

  A CPU sorts whole rows for `top_k`: a few times the least is faster.
  """
  if number > 8:
    return -jax.lax.top_k(-x, number)[0]
  at, found = jnp.arange(x.shape[2])[None, None], []
  for _ in range(number):
    first = jnp.argmin(x, axis=2, keepdims=True)
    found.append(jnp.take_along_axis(x, first, axis=2))
    x = jnp.where(at == first, jnp.inf, x)
  return jnp.concatenate(found, axis=2)
