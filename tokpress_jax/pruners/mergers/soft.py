"""Soft mergers: weights instead of one target per token.

Dimension letters: B batch, N token slots, K kept slots, E metric features.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.pruners import selectors, similarities
from tokpress_jax.types import Array, Dense, Reduction, Tokens


def knn_weighted(
  metric: Array,
  tokens: Tokens,
  *,
  kept: Array,
  weights: Array,
  capacity: int,
  neighbours: int = 32,
  sources: Array | None = None,
  bonus: Array | None = None,
  rank: Array | None = None,
) -> Reduction:
  """Each kept token adds its nearest others, weighted (PruMerge).

  LLaVA-PruMerge (arXiv:2403.15388, section 3.2): a kept token becomes itself
  plus the sum over its 32 most similar other tokens of weight times token, not
  divided: apply it in mode 'sum'. A token may be added to several kept ones,
  kept tokens among them.

  Args:
    metric: [B, N, E]; similarity is the cosine.
    tokens: N slots; protected ones stay as they are and are added nowhere.
    kept: [B, N] bool.
    weights: [B, N], PruMerge's attention of the class token.
    capacity: K, at least the kept and protected tokens of a row.
    neighbours: how many are added to each.
    sources: [B, N] bool, what may be added; all unprotected tokens if None
      (Recoverable Compression: the tokens that are not kept).
    bonus: [B, N], added to each token's similarities (Recoverable Compression:
      what it has to do with the text).
    rank: [B, N], the order of the kept tokens; slot order if None.

  Returns:
    The reduction, its matrix dense.
  """
  valid, protected = tokens.valid, tokens.protected
  free = valid & ~protected
  sources = free if sources is None else free & sources
  base = selectors.selection(
    tokens, (kept | protected) & valid, capacity=capacity, rank=rank
  )
  metric = jax.lax.stop_gradient(metric)
  ours = reduction_lib.gather(metric, base.index)
  pairs = similarities.cosine(ours, metric)
  if bonus is not None:
    pairs = pairs + jax.lax.stop_gradient(bonus.astype(jnp.float32))[:, None]
  own = base.index[:, :, None] == jnp.arange(valid.shape[1])[None, None]
  takes = base.valid & ~jnp.take_along_axis(protected, base.index, axis=1)
  allowed = takes[:, :, None] & sources[:, None] & ~own
  pairs = jnp.where(allowed, pairs, -jnp.inf)
  count = min(neighbours, valid.shape[1])
  found, at = jax.lax.top_k(pairs, count)  # [B, K, J]
  put = jax.vmap(jax.vmap(lambda row, i, v: row.at[i].set(v)))
  near = put(jnp.zeros(pairs.shape, bool), at, found > -jnp.inf)
  matrix = near * weights.astype(jnp.float32)[:, None]
  matrix += own & base.valid[:, :, None]
  return dataclasses.replace(base, assign=Dense(matrix))


def soft_assign(
  metric: Array,
  tokens: Tokens,
  *,
  kept: Array,
  capacity: int,
  temperature: float = 0.1,
  normalise: Literal['sources', 'slots'] = 'sources',
  support: Array | None = None,
  rank: Array | None = None,
) -> Reduction:
  """Every token spreads over the kept ones, by cosine over a temperature.

  The many-to-many matrix of Token Transforming (arXiv:2506.05709), of which
  pruning and merging are cases. Gradients flow through the weights. As the
  temperature goes to 0 this is `nearest_kept` (with 'sources').

  Args:
    metric: [B, N, E].
    tokens: N slots; protected ones stay as they are.
    kept: [B, N] bool, the tokens around which the slots form.
    capacity: K, at least the kept and protected tokens of a row.
    temperature: of the softmax.
    normalise: over the slots for each source, so that mass is kept (apply it in
      mode 'mass'), or over the sources for each slot, so that M x is a mean.
    support: [B, N, N] bool, which kept token j a token i may go to, for super
      tokens; a source without any is dropped. All if None.
    rank: [B, N], the order of the kept tokens; slot order if None.

  Returns:
    The reduction, its matrix dense.
  """
  valid, protected = tokens.valid, tokens.protected & tokens.valid
  base = selectors.selection(
    tokens, (kept & valid) | protected, capacity=capacity, rank=rank
  )
  ours = reduction_lib.gather(metric, base.index)
  logits = similarities.cosine(ours, metric) / temperature
  takes = base.valid & ~jnp.take_along_axis(protected, base.index, axis=1)
  allowed = takes[:, :, None] & (valid & ~protected)[:, None]
  if support is not None:
    pick = lambda mask, at: jnp.take(mask, at, axis=1)
    allowed &= jax.vmap(pick)(support, base.index).swapaxes(1, 2)
  axis = 1 if normalise == 'sources' else 2
  logits = jnp.where(allowed, logits, jnp.finfo(jnp.float32).min)
  most = jax.lax.stop_gradient(logits.max(axis=axis, keepdims=True))
  weight = jnp.where(allowed, jnp.exp(logits - most), 0)
  total = weight.sum(axis=axis, keepdims=True)  # 0 if nothing is allowed
  weight = weight / jnp.where(total > 0, total, 1)
  own = base.index[:, :, None] == jnp.arange(valid.shape[1])[None, None]
  alone = (base.valid & ~takes)[:, :, None] & own
  return dataclasses.replace(base, assign=Dense(jnp.where(alone, 1, weight)))


def beside_protected(
  tokens: Tokens, weight: Array, *, index: Array, valid: Array
) -> Reduction:
  """The protected tokens, then new ones that are made of the others.

  Args:
    tokens: N slots.
    weight: float32 [B, S, N], what of each token goes into each new one.
    index: int32 [B, S], their representatives.
    valid: bool [B, S].

  Returns:
    From N to K slots; the positions are the tokens', to be placed.
  """
  alone = selectors.selection(
    tokens, tokens.valid & tokens.protected, capacity=tokens.num_protected
  )
  join = lambda a, b: jnp.concatenate([a, b], axis=1)
  return Reduction(
    index=join(alone.index, index),
    valid=join(alone.valid, valid),
    assign=Dense(join(reduction_lib.dense(alone), weight)),
    positions=tokens.positions,
  )
