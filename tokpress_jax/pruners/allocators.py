"""Allocators: one budget split over crops, owners or heads.

Dimension letters: B batch, N token slots, G parts (crops, images, heads).

Splits are int32 [B, G], never above a part's size. With rounding 'exact' they
add up to the total, or to what there is if that is less: what the floors leave
goes one by one to the largest remainders, ties to the earlier part. 'floor' is
what most official codes do, and may add up to less.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.pruners.mergers.grouped import rank_of
from tokpress_jax.types import Array

Rounding = Literal['exact', 'floor']


def by_weight(
  weights: Array,
  *,
  total: Array | int,
  sizes: Array,
  rounding: Rounding = 'exact',
) -> Array:
  """Splits in proportion to weights.

  With 'exact', what a full part cannot take goes to the others by their
  weights. Parts share evenly where all weights are 0.

  Args:
    weights: [B, G], at least 0.
    total: [B] or one number, tokens to keep.
    sizes: int [B, G], tokens of each part.
    rounding: see the module.

  Returns:
    int32 [B, G].
  """
  weights, sizes = weights.astype(jnp.float32), sizes.astype(jnp.int32)
  total = jnp.broadcast_to(jnp.asarray(total, jnp.int32), weights.shape[:1])
  total = jnp.minimum(total, sizes.sum(axis=1))[:, None]

  def quotas(full):  # of the parts that are not full yet
    left = total - jnp.sum(jnp.where(full, sizes, 0), axis=1, keepdims=True)
    share = jnp.where(full, 0, weights)
    even = share.sum(axis=1, keepdims=True) == 0
    share = jnp.where(even, (~full).astype(jnp.float32), share)
    whole = share.sum(axis=1, keepdims=True)
    return left * share / jnp.where(whole > 0, whole, 1), left

  full = jnp.zeros(weights.shape, bool)
  if rounding == 'exact':
    full |= sizes == 0
    for _ in range(weights.shape[1]):  # each round fills a part, or none
      full |= quotas(full)[0] >= sizes
  quota, left = quotas(full)
  floor = jnp.minimum(jnp.floor(quota + 1e-5).astype(jnp.int32), sizes)
  if rounding == 'floor':
    return floor
  spare = left - jnp.sum(jnp.where(full, 0, floor), axis=1, keepdims=True)
  rank = rank_of(quota - floor, among=~full & (floor < sizes))
  floor += (rank < spare).astype(jnp.int32)
  return jnp.where(full, sizes, floor)


def uniform(
  *, total: Array | int, sizes: Array, rounding: Rounding = 'exact'
) -> Array:
  """Splits evenly, [B, G]; see `by_weight`."""
  return by_weight(
    jnp.ones(sizes.shape), total=total, sizes=sizes, rounding=rounding
  )


def proportional(
  *, total: Array | int, sizes: Array, rounding: Rounding = 'exact'
) -> Array:
  """Splits in proportion to the sizes, [B, G]; see `by_weight`."""
  return by_weight(sizes, total=total, sizes=sizes, rounding=rounding)


def by_mass(
  mass: Array,
  *,
  ratio: float,
  sizes: Array,
  temperature: float = 10.0,
) -> Array:
  """Crops that the thumbnail looks at more keep more (GlobalCom2).

  GlobalCom2 (arXiv:2501.05179, section 3.2): p = softmax((m - max m) / T) of
  the thumbnail's score summed over each crop; a crop keeps the fraction
  ratio (1 + p - mean p), at most 1, rounded down. Numbers add up to about the
  ratio, as in the official code.

  Args:
    mass: [B, G], the sums.
    ratio: mean fraction that is kept.
    sizes: int [B, G]; 0 where there is no crop.
    temperature: T.

  Returns:
    int32 [B, G].
  """
  there = sizes > 0
  mass = jnp.where(there, mass.astype(jnp.float32), -jnp.inf) / temperature
  share = jax.nn.softmax(mass, axis=1)
  number = jnp.maximum(there.sum(axis=1, keepdims=True), 1)
  share = jnp.where(there, share - 1 / number, 0)
  kept = jnp.clip(ratio * (1 + share), 0, 1)
  return jnp.floor(sizes * kept + 1e-5).astype(jnp.int32)


def by_top_count(
  scores: Array,
  parts: Array,
  *,
  marked: Array | int,
  total: Array | int,
  sizes: Array,
  rounding: Rounding = 'floor',
) -> Array:
  """Crops that hold more of the image's best places keep more (HiRED).

  HiRED (arXiv:2408.10945, section 4.2): the `marked` highest scores of the
  whole image are counted per crop, and the budget follows the counts, rounded
  down.

  Args:
    scores: [B, N] of the whole image.
    parts: int [B, N], the crop of each place; -1 for none. (The official code
      groups consecutive raster places, not blocks of them.)
    marked: [B] or one number; int(576 (1 - alpha)) in HiRED.
    total: [B] or one number, tokens of all crops.
    sizes: int [B, G].
    rounding: see the module.

  Returns:
    int32 [B, G].
  """
  marked = jnp.broadcast_to(jnp.asarray(marked, jnp.int32), scores.shape[:1])
  best = rank_of(scores, among=parts >= 0) < marked[:, None]
  crops = jnp.arange(sizes.shape[1])[None, :, None]
  here = (parts[:, None] == crops) & best[:, None]
  counts = jnp.sum(here, axis=2)
  return by_weight(counts, total=total, sizes=sizes, rounding=rounding)


def per_head_joint(
  scores: Array, *, keep: int, valid: Array, safeguard: float = 0.2
) -> Array:
  """Heads compete for one budget, each sure of a part (AdaKV).

  AdaKV (arXiv:2407.11550, algorithm 1): every head keeps its int(keep *
  safeguard) best tokens; the rest of heads * keep goes to the best scores of
  all heads together.

  Args:
    scores: [B, H, N], H heads.
    keep: tokens of a head, on average; at most the valid ones of a row.
    valid: [B, N] bool.
    safeguard: fraction of `keep` that each head is sure of.

  Returns:
    bool [B, H, N], with exactly H min(keep, valid tokens) True in each row.
  """
  batch, heads, slots = scores.shape
  there = jnp.broadcast_to(valid[:, None], scores.shape)
  flat = lambda x: x.reshape(batch * heads, slots)
  own = rank_of(flat(scores), among=flat(there)).reshape(scores.shape)
  number = jnp.minimum(keep, jnp.sum(valid, axis=1))  # [B]
  # A short row is sure of what it would be with its own number.
  safe = jnp.floor(number * safeguard + 1e-5).astype(jnp.int32)
  sure = there & (own < safe[:, None, None])
  score = jnp.where(sure, jnp.inf, scores.astype(jnp.float32))
  joint = rank_of(
    score.reshape(batch, -1), among=there.reshape(batch, -1)
  ).reshape(scores.shape)
  return there & (joint < (heads * number)[:, None, None])
