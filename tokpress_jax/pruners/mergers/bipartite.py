"""Bipartite matching: one set of tokens joins its closest of another set.

Dimension letters: B batch, N token slots, K kept slots, E metric features.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks, scores, selectors, similarities
from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.pruners.mergers.grouped import count_free, grouped, rank_of
from tokpress_jax.pruners.mergers.nearest import closest
from tokpress_jax.types import Array, OneHot, Reduction, Tokens


def bipartite(
  metric: Array,
  tokens: Tokens,
  *,
  count: Array | int,
  num_merged: int,
  order: Literal['position', 'similarity'] = 'position',
) -> Reduction:
  """Bipartite soft matching (ToMe, arXiv:2210.09461, section 3.2).

  Valid tokens are dealt alternately to sets A (first) and B, protected ones
  first. Each unprotected token of A finds its most similar unprotected token of
  B by cosine; the `count` closest pairs merge. Where protected tokens lead the
  row, as a class token does, the sets are the official code's: a class token
  sits in A and never moves, a distillation token in B takes nothing in.

  Kept slots are in the official order: protected tokens, the rest of A, all of
  B. The next layer's sets follow from it.

  Args:
    metric: [B, N, E], the mean of the heads' keys for ToMe.
    tokens: N slots; their features are not read.
    count: pairs to merge in each row, int [B] or one number, clipped to half of
      its unprotected tokens.
    num_merged: static upper bound of `count`, at most half of the slots;
      K = N - num_merged.
    order: how the rest of A is ordered: by slot ('position', the official code
      with a class token) or by falling similarity (the official code without).

  Returns:
    The reduction, positions those of the representatives (tokens of B and the
    rest of A).

  Raises:
    UserError: see `check_pairs`.
  """
  slots = tokens.valid.shape[1]
  count = check_pairs(count, tokens, metric=metric, num_merged=num_merged)
  protected = tokens.protected & tokens.valid
  tier = jnp.where(protected, 0, jnp.where(tokens.valid, 1, 2))
  dealt = jnp.argsort(tier, axis=1, stable=True)  # [B, N] dealt to slot
  free = jnp.take_along_axis(tier == 1, dealt, axis=1)
  metric = jax.lax.stop_gradient(reduction_lib.gather(metric, dealt))

  pairs = similarities.cosine(metric[:, 0::2], metric[:, 1::2])
  allowed = free[:, 0::2, None] & free[:, None, 1::2]
  pairs = jnp.where(allowed, pairs, -jnp.inf)
  closest = jnp.max(pairs, axis=2)  # [B, N_A]
  partner = 2 * jnp.argmax(pairs, axis=2) + 1  # dealt slot in B
  rank = selectors.invert(jnp.argsort(-closest, axis=1, stable=True))
  count = jnp.minimum(count, jnp.sum(free, axis=1) // 2)
  merge = rank < jnp.minimum(count, num_merged)[:, None]

  def weave(a, b):  # values of A and B back at their dealt slots
    spare = jnp.zeros((a.shape[0], a.shape[1] - b.shape[1]), b.dtype)
    both = jnp.stack([a, jnp.concatenate([b, spare], axis=1)], axis=2)
    return both.reshape(a.shape[0], -1)[:, :slots]

  at = jnp.arange(slots)[None]
  first = at[:, 0::2] if order == 'position' else rank
  set_b = jnp.zeros((rank.shape[0], slots // 2), rank.dtype)
  merged = weave(merge, set_b.astype(bool))
  within_a = weave(jnp.broadcast_to(first, rank.shape), set_b)
  filled = jnp.take_along_axis(tokens.valid, dealt, axis=1)
  # Groups of the output: protected, rest of A, B, and last what leaves.
  key = jnp.where(at % 2 == 0, slots + within_a, 2 * slots + at)
  key = jnp.where(filled & ~free, at, key)
  key = jnp.where(merged | ~filled, 3 * slots + at, key)
  out = jnp.argsort(key, axis=1)
  new = selectors.invert(out)  # dealt slot to kept slot
  joined = jnp.take_along_axis(new, weave(partner, set_b), axis=1)
  target = jnp.where(merged, joined, jnp.where(filled, new, -1))
  index = jnp.take_along_axis(dealt, out, axis=1)[:, : slots - num_merged]
  back = selectors.invert(dealt)
  kept = jnp.take_along_axis(filled & ~merged, out, axis=1)
  result = Reduction(
    index=index.astype(jnp.int32),
    valid=kept[:, : slots - num_merged],
    assign=OneHot(
      jnp.take_along_axis(target, back, axis=1).astype(jnp.int32),
      merged=num_merged,
    ),
    positions=tokens.positions,
  )
  positions = reduction_lib.apply(result, tokens.positions)
  return dataclasses.replace(result, positions=positions)


def kth_bipartite(metric: Array, tokens: Tokens, *, k: int) -> Reduction:
  """Every k-th token takes the others in (ToMe's `kth_bipartite_...`).

  Unprotected tokens are counted in slot order; the k-th, 2k-th, ... are kept
  and each other one joins its most similar of them. As in the official code
  the tail, what is left over after the last k-th token, is dropped; a row with
  fewer than k tokens keeps its last one (the official code: none).

  Args:
    metric: [B, N, E].
    tokens: N slots.
    k: one of k is kept, at least 2.

  Returns:
    The reduction, K = num_protected + max((N - num_protected) // k, 1).

  Raises:
    UserError: if k is below 2.
  """
  if k < 2:
    raise UserError(f'one of k tokens is kept, with k at least 2; got {k}')
  free, rank, number = count_free(tokens)
  number = number[:, None]
  kept = free & (rank % k == k - 1)
  kept |= free & (number < k) & (rank == number - 1)
  inside = free & (rank < jnp.where(number < k, number, number // k * k))
  slots = tokens.valid.shape[1]
  lead, _ = closest(
    metric,
    tokens,
    kept=kept,
    sources=inside & ~kept,
    capacity=max(slots // k, 1),
  )
  capacity = tokens.num_protected + max((slots - tokens.num_protected) // k, 1)
  return grouped(tokens, lead, capacity=capacity)


def random_bipartite(
  metric: Array,
  tokens: Tokens,
  *,
  rng: Array,
  count: Array | int,
  num_merged: int,
) -> Reduction:
  """Tokens drawn at random join the others (`random_bipartite_...` of ToMe).

  Args:
    metric: [B, N, E].
    tokens: N slots.
    rng: [B] typed keys.
    count: tokens to merge in each row, below its unprotected ones, int [B] or
      one number.
    num_merged: static upper bound of `count`, met by a row without padding;
      K = N - num_merged.

  Returns:
    The reduction; kept tokens stay in slot order (the official code shuffles
    them).

  Raises:
    UserError: see `check_pairs`; at most all slots but one merge.
  """
  count = check_pairs(
    count, tokens, metric=metric, num_merged=num_merged, share=1
  )
  free, _, number = count_free(tokens)
  drawn = rank_of(scores.random(rng, tokens.valid), among=free)
  count = jnp.clip(count, 0, jnp.minimum(num_merged, number - 1))
  moved = free & (drawn < count[:, None])
  capacity = tokens.valid.shape[1] - num_merged
  lead, _ = closest(
    metric, tokens, kept=free & ~moved, sources=moved, capacity=capacity
  )
  return grouped(tokens, lead, capacity=capacity, num_merged=num_merged)


def check_pairs(
  count: Array | int,
  tokens: Tokens,
  *,
  metric: Array,
  num_merged: int,
  share: int = 2,
) -> Array:
  """Checks the numbers of a matching, and writes its count out.

  Args:
    count: int [B], or one number.
    tokens: N slots.
    metric: [B, N, E].
    num_merged: static upper bound of `count`.
    share: at most one of how many tokens merges.

  Returns:
    int32 [B].

  Raises:
    UserError: lists all that does not fit: `num_merged` above what can merge, a
      number above it, and what `checks.row_counts` finds.
  """
  slots = tokens.valid.shape[1]
  most = slots // share if share > 1 else max(slots - 1, 0)
  static = [('num_merged', num_merged, 0, most)]
  if isinstance(count, int):
    static.append(('count', count, 0, max(num_merged, 0)))
  return checks.row_counts(
    count,
    valid=tokens.valid,
    protected=tokens.protected,
    least=0,
    static=static,
    metric=metric,
  )
