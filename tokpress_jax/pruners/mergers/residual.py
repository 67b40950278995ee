"""A residual token: one more slot for everything that was dropped.

Dimension letters: B batch, N token slots, K kept slots.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp

from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.types import Array, Dense, OneHot, Reduction, Sparse, Tokens


def residual_token(
  reduction: Reduction,
  tokens: Tokens,
  *,
  weights: Array | None = None,
  sources: Array | None = None,
) -> Reduction:
  """Adds a last slot for the tokens that went nowhere.

  With the class token's attention as weights and mode 'sum' this is the fused
  token of EViT (arXiv:2202.07800, section 3.2), and with all tokens that were
  not kept as sources the last token of PruMerge.

  Args:
    reduction: from N to K slots.
    tokens: the N slots.
    weights: [B, N] of the dropped tokens; 1 if not given.
    sources: [B, N] bool, tokens that go there instead, also if they went
      elsewhere too (the matrix is then dense).

  Returns:
    From N to K + 1 slots. The new slot's representative is the dropped token of
    the largest weight, the first of them on ties; it is not valid in rows that
    dropped nothing.
  """
  assign, kept = reduction.assign, reduction.index.shape[1]
  if sources is not None:
    assign = Dense(reduction_lib.dense(reduction))
  if isinstance(assign, Dense):
    reached = jnp.any(assign.matrix != 0, axis=1)
  elif isinstance(assign, Sparse):
    reached = jnp.any((assign.target >= 0) & (assign.weight != 0), axis=2)
  else:
    reached = assign.target >= 0
  dropped = tokens.valid & (~reached if sources is None else sources)
  weight = jnp.ones(dropped.shape, jnp.float32)
  if weights is not None:
    weight = weights.astype(jnp.float32)
  best = jnp.argmax(jnp.where(dropped, weight, -jnp.inf), axis=1)[:, None]
  weight = jnp.where(dropped, weight, 0)
  joined: OneHot | Sparse | Dense
  if isinstance(assign, Dense):
    row = weight[:, None].astype(assign.matrix.dtype)
    joined = Dense(jnp.concatenate([assign.matrix, row], axis=1))
  elif isinstance(assign, OneHot) and weights is None:
    joined = OneHot(jnp.where(dropped, kept, assign.target))
  else:
    links = reduction_lib.links(assign)
    gone, last = dropped[..., None], jnp.arange(links.target.shape[2]) == 0
    last = last[None, None]
    target = jnp.where(gone, jnp.where(last, kept, -1), links.target)
    spread = jnp.where(last, weight[..., None], 0)
    joined = Sparse(target, jnp.where(gone, spread, links.weight))
  one = dropped.any(axis=1, keepdims=True)
  extra = reduction_lib.gather(tokens.positions, best)
  extra = jnp.where(one[..., None], extra, 0).astype(reduction.positions.dtype)
  return dataclasses.replace(
    reduction,
    index=jnp.concatenate([reduction.index, best.astype(jnp.int32)], axis=1),
    valid=jnp.concatenate([reduction.valid, one], axis=1),
    assign=joined,
    positions=jnp.concatenate([reduction.positions, extra], axis=1),
  )
