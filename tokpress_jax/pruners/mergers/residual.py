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
    From N to K + 1 slots. The new slot stands behind the valid ones of a row;
    its representative is the dropped token of the largest weight, the first of
    them on ties. It is not valid in rows that dropped nothing.
  """
  assign = reduction.assign
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
  # Behind the valid slots of a row, which come first.
  slot = reduction.valid.sum(axis=1, dtype=jnp.int32)[:, None]
  here = jnp.arange(reduction.index.shape[1] + 1)[None] == slot  # [B, K + 1]

  def put(old: Array, new: Array) -> Array:
    """Old [B, K, ...] with new [B, 1, ...] in the new slot."""
    rest = [(0, 0)] * (old.ndim - 2)
    wide = jnp.pad(old, [(0, 0), (0, 1), *rest])
    mask = here.reshape(*here.shape, *(1,) * (old.ndim - 2))
    return jnp.where(mask, new.astype(old.dtype), wide)

  joined: OneHot | Sparse | Dense
  if isinstance(assign, Dense):
    joined = Dense(put(assign.matrix, weight[:, None]))
  elif isinstance(assign, OneHot) and weights is None:
    joined = OneHot(jnp.where(dropped, slot, assign.target))
  else:
    links = reduction_lib.links(assign)
    gone, last = dropped[..., None], jnp.arange(links.target.shape[2]) == 0
    last = last[None, None]
    target = jnp.where(gone, jnp.where(last, slot[..., None], -1), links.target)
    spread = jnp.where(last, weight[..., None], 0)
    joined = Sparse(target, jnp.where(gone, spread, links.weight))
  one = dropped.any(axis=1, keepdims=True)
  extra = reduction_lib.gather(tokens.positions, best)
  extra = jnp.where(one[..., None], extra, 0)
  return dataclasses.replace(
    reduction,
    index=put(reduction.index, best),
    valid=put(reduction.valid, one),
    assign=joined,
    positions=put(reduction.positions, extra),
  )
