"""Nearest kept: what leaves joins the most similar token that stays.

Dimension letters: B batch, N token slots, K kept slots, E metric features.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import checks, similarities
from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.pruners.mergers.grouped import count_free, grouped
from tokpress_jax.types import Array, Reduction, Tokens


def closest(
  metric: Array,
  tokens: Tokens,
  *,
  kept: Array,
  sources: Array,
  capacity: int,
) -> tuple[Array, Array]:
  """Finds each source's most similar kept token, by cosine.

  Protected tokens stay and take nothing in.

  Args:
    metric: [B, N, E].
    tokens: N slots.
    kept: [B, N] bool, who takes in; ties go to the earlier slot.
    sources: [B, N] bool, who joins; where a row keeps nothing it is dropped.
    capacity: static, the most tokens of `kept` in a row.

  Returns:
    lead int32 [B, N] for `grouped`: the slot itself where kept or protected, -1
    where a token is neither of all these; and the similarity float32 [B, N] to
    it, 1 where a token stays.
  """
  metric = jax.lax.stop_gradient(metric)
  kept = kept & tokens.valid & ~tokens.protected
  at = jnp.argsort(~kept, axis=1, stable=True)[:, :capacity]
  pairs = similarities.cosine(metric, reduction_lib.gather(metric, at))
  takes = jnp.take_along_axis(kept, at, axis=1)
  pairs = jnp.where(takes[:, None], pairs, -jnp.inf)
  best = jnp.take_along_axis(at, jnp.argmax(pairs, axis=2), axis=1)
  best, found = best.astype(jnp.int32), jnp.max(pairs, axis=2)
  slots = jnp.arange(kept.shape[1], dtype=jnp.int32)[None]
  joins = sources & (found > -jnp.inf)
  stays = kept | (tokens.protected & tokens.valid)
  lead = jnp.where(stays, slots, jnp.where(joins, best, -1))
  return lead, jnp.where(joins & ~stays, found, 1)


def nearest_kept(
  metric: Array,
  tokens: Tokens,
  *,
  kept: Array,
  capacity: int,
  sources: Array | None = None,
  rank: Array | None = None,
  num_merged: int | None = None,
  size_rule: Literal['sum', 'similarity'] = 'sum',
) -> Reduction:
  """Every token that a selector did not keep joins its most similar kept one.

  Args:
    metric: [B, N, E].
    tokens: N slots; protected ones stay, and take nothing in.
    kept: [B, N] bool.
    capacity: K, at least the kept and protected tokens of a row.
    sources: [B, N] bool, who joins; the others that are not kept are dropped.
      All of them join if None.
    rank: [B, N], the order of the kept tokens; slot order if None.
    num_merged: static, the most tokens of a row that join, if known.
    size_rule: whether a slot takes over the mass of what joins it ('sum') or
      this mass times the similarity, at least 0 ('similarity', DiffRate).

  Returns:
    The reduction.

  Raises:
    UserError: if `kept` is no mask, the capacity is below 0, or (outside of
      `jit`) a row keeps more.
  """
  checks.refuse('this merger', checks.mask_causes('kept', kept, tokens.valid))
  stays = (kept | tokens.protected) & tokens.valid
  checks.refuse('this merger', checks.slots_causes(stays, capacity))
  if sources is None:
    sources = tokens.valid
  lead, similarity = closest(
    metric, tokens, kept=kept, sources=sources, capacity=capacity
  )
  result = grouped(
    tokens, lead, capacity=capacity, rank=rank, num_merged=num_merged
  )
  if size_rule == 'similarity':
    result = dataclasses.replace(result, mass_share=jnp.maximum(similarity, 0))
  return result


def uniform_targets(
  metric: Array,
  tokens: Tokens,
  *,
  count: Array | int,
  capacity: int,
  kept: Array | None = None,
) -> Reduction:
  """Evenly spaced targets take the rest in (VisionZip's contextual tokens).

  VisionZip (arXiv:2412.04467, section 3.2): of the n tokens that are not kept,
  every (n // count)-th is a target, the first `count` of them; each other one
  joins the most similar target. Apply it in mode 'target_mean' as the official
  code does, or in 'mean' as AngelSlim does.

  Args:
    metric: [B, N, E], the mean of the heads' keys for VisionZip.
    tokens: N slots; protected ones stay alone.
    count: targets of each row, int [B] or one number; as many as there are
      tokens if that is fewer.
    capacity: K, at least kept, protected and targets together.
    kept: [B, N] bool, tokens that stay alone (VisionZip's dominant ones); they
      come first. None of them if not given.

  Returns:
    The reduction: kept and protected tokens in slot order, then the targets.

  Raises:
    UserError: if a number does not fit; see `checks.row_counts`.
  """
  count = checks.row_counts(
    count,
    valid=tokens.valid,
    protected=tokens.protected,
    static=[('capacity', capacity, 0, None)],
    metric=metric,
    kept=kept,
  )
  alone = tokens.valid & tokens.protected
  if kept is not None:
    alone |= tokens.valid & kept
  tokens_alone = dataclasses.replace(tokens, protected=alone)
  free, rank, number = count_free(tokens_alone)
  count = jnp.minimum(count, number)[:, None]
  step = jnp.maximum(number[:, None] // jnp.maximum(count, 1), 1)
  target = free & (rank % step == 0) & (rank // step < count)
  slots = jnp.arange(free.shape[1])[None]
  return nearest_kept(
    metric,
    tokens_alone,
    kept=target,
    capacity=capacity,
    rank=jnp.where(alone, slots, free.shape[1] + slots),
  )
