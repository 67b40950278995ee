"""Applying, undoing and joining reductions: one matrix M, three encodings.

Dimension letters: B batch, N source slots, K kept slots, D features, J links of
one token, F trailing features of any shape, flattened.

A reduction is a matrix M[K, N] per row. Pruning has one-hot rows; merging has
several sources in a row; soft assignment has weights. Sources that are dropped
or padded have a zero column. `apply` moves any [B, N, ...] array by M in one of
five modes:

  'representative'  x of each slot's representative source; any dtype.
  'sum'             M x.
  'mean'            M x / M 1.
  'mass'            M (m x) / M m, with m the mass of the sources (ToMe's
                    size-weighted mean).
  'target_mean'     each slot's representative plus the mean of the others that
                    went there, not divided again (VisionZip); one-hot only.

A weighted sum that is not divided (PruMerge) is 'sum' with weights in M.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.types import (
  Array,
  Dense,
  OneHot,
  Reduction,
  Signals,
  Sparse,
  Tokens,
)

Mode = Literal['representative', 'sum', 'mean', 'mass', 'target_mean']
MODES = ('representative', 'sum', 'mean', 'mass', 'target_mean')
# The axes of signals that belong to tokens: B batch, A heads, N token slots.
SIGNAL_AXES = {
  'keys': 'BAND',
  'queries': 'BAND',
  'attention_row': 'BAN',
  'attention_logits': 'BAN',
  'attention_column': 'BAN',
  'before': 'BND',
  'importance': 'BN',
}


def apply(
  reduction: Reduction,
  x: Array,
  *,
  mode: Mode = 'representative',
  mass: Array | None = None,
) -> Array:
  """Moves an array from the source slots to the kept slots.

  Args:
    reduction: from N to K slots.
    x: [B, N, ...], features, keys, labels, masks; floating unless the mode is
      'representative'.
    mode: see the module.
    mass: [B, N] of the sources; needed by 'mass', ignored by the others.

  Returns:
    [B, K, ...] in x's dtype (sums are taken in float32); 0 or False in slots
    that are not valid.

  Raises:
    ValueError: if the mode, a shape, the mass or the dtype does not fit.
  """
  if mode not in MODES:
    raise ValueError(f'unknown mode {mode!r}; try one of {MODES}')
  _check_slots(reduction, 'x', x, 'N')
  if mode == 'representative':
    return _where_valid(reduction.valid, gather(x, reduction.index))
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(
      f'mode {mode!r} adds tokens up and needs a floating array, got '
      f"{x.dtype}; labels and masks move by mode='representative'"
    )
  y = x.astype(jnp.float32)
  if mode == 'target_mean':
    own = gather(y, reduction.index)
    others = apply(_without_representatives(reduction), y, mode='mean')
    return _where_valid(reduction.valid, own + others).astype(x.dtype)
  weight = jnp.ones(x.shape[:2], jnp.float32)
  if mode == 'mass':
    if mass is None:
      raise ValueError(
        "mode 'mass' needs `mass`, the [B, N] mass of the sources"
      )
    _check_slots(reduction, 'mass', mass, 'N')
    weight = mass.astype(jnp.float32)
    y = y * _spread(weight, y)
  total = _multiply(reduction, y)
  if mode != 'sum':
    count = _multiply(reduction, weight)
    total = total / _spread(jnp.where(count == 0, 1, count), total)
  return _where_valid(reduction.valid, total).astype(x.dtype)


def unmerge(reduction: Reduction, y: Array, fill: Array | None = None) -> Array:
  """Gives every source slot the value of the slot that it went to.

  For a source with several links it is their weighted mean.

  Args:
    reduction: from N to K slots.
    y: [B, K, ...].
    fill: [B, N, ...] for sources that were dropped; 0 if not given.

  Returns:
    [B, N, ...] in y's dtype.

  Raises:
    ValueError: if a shape does not fit.
  """
  _check_slots(reduction, 'y', y, 'K')
  if fill is not None:
    _check_slots(reduction, 'fill', fill, 'N')
  assign = reduction.assign
  if isinstance(assign, OneHot):
    found = assign.target >= 0
    x = gather(y, jnp.maximum(assign.target, 0))
  else:
    matrix = dense(reduction)
    total = matrix.sum(axis=1)  # [B, N]
    found = total > 0
    flat = y.reshape(*y.shape[:2], -1).astype(jnp.float32)
    x = jnp.einsum('bkn,bkf->bnf', matrix, flat, precision='highest')
    x = x / jnp.where(found, total, 1)[..., None]
    x = x.reshape(*x.shape[:2], *y.shape[2:]).astype(y.dtype)
  if fill is None:
    fill = jnp.zeros_like(x)
  return jnp.where(_spread(found, x), x, fill.astype(x.dtype))


def compose(first: Reduction, second: Reduction) -> Reduction:
  """Joins two reductions, N to K to K', into one.

  Applying the result equals applying both in modes 'representative', 'sum' and
  'mass' (a mean of means is not a mean). Shares of masses multiply.

  Args:
    first: from N to K slots.
    second: from K to K' slots.

  Returns:
    From N to K' slots, with the second's positions and state.

  Raises:
    ValueError: if the second takes over shares of masses and the first is not
      one-hot: a share belongs to one source.
  """
  assign: OneHot | Sparse | Dense
  a, b = first.assign, second.assign
  share = first.mass_share
  if second.mass_share is not None:
    if not isinstance(a, OneHot):
      raise ValueError(
        'the second reduction takes over shares of masses (mass_share), which '
        'joins only with a one-hot first one; apply the two in turn instead'
      )
    later = gather(second.mass_share, jnp.maximum(a.target, 0))
    share = later if share is None else share * later
  if isinstance(a, OneHot) and isinstance(b, OneHot):
    target = gather(b.target, jnp.maximum(a.target, 0))
    target = jnp.where(a.target < 0, -1, target)
    merged = None
    if a.merged is not None and b.merged is not None:
      merged = a.merged + b.merged
    assign = OneHot(target, merged=merged)
  elif isinstance(a, Dense) or isinstance(b, Dense):
    assign = Dense(
      jnp.einsum(
        'bkj,bjn->bkn', dense(second), dense(first), precision='highest'
      )
    )
  else:
    a, b = links(a), links(b)
    shape = (*a.target.shape[:2], -1)
    source = jnp.maximum(a.target, 0).reshape(a.target.shape[0], -1)
    target = gather(b.target, source).reshape(*a.target.shape, -1)
    weight = gather(b.weight, source).reshape(*a.target.shape, -1)
    linked = (a.target >= 0)[..., None]
    assign = Sparse(
      target=jnp.where(linked, target, -1).reshape(shape),
      weight=jnp.where(linked, weight * a.weight[..., None], 0).reshape(shape),
    )
  return dataclasses.replace(
    second,
    index=gather(first.index, second.index),
    valid=second.valid & gather(first.valid, second.index),
    assign=assign,
    mass_share=share,
  )


def dense(reduction: Reduction) -> Array:
  """Writes a reduction's matrix out, float32 [B, K, N]."""
  if isinstance(reduction.assign, Dense):
    return reduction.assign.matrix.astype(jnp.float32)
  sparse = links(reduction.assign)
  slots = jnp.arange(reduction.index.shape[1])
  hit = sparse.target[:, None] == slots[None, :, None, None]  # [B, K, N, J]
  return jnp.sum(hit * sparse.weight[:, None].astype(jnp.float32), axis=-1)


def identity(tokens: Tokens) -> Reduction:
  """Gives the reduction that keeps every token where it is."""
  index = jnp.broadcast_to(
    jnp.arange(tokens.valid.shape[1], dtype=jnp.int32), tokens.valid.shape
  )
  return Reduction(
    index=index,
    valid=tokens.valid,
    assign=OneHot(jnp.where(tokens.valid, index, -1), merged=0),
    positions=tokens.positions,
  )


def reduce_tokens(
  tokens: Tokens, reduction: Reduction, *, mode: Mode = 'representative'
) -> Tokens:
  """Moves tokens and everything that travels with them.

  Args:
    tokens: N slots.
    reduction: from N to K slots.
    mode: how the features move; masses (or their shares that are taken over)
      are always summed, kinds, owners and protection follow the representative.

  Returns:
    Tokens in K slots.
  """
  pick = lambda x: apply(reduction, x)
  mass = tokens.mass
  if reduction.mass_share is not None:
    mass = mass * reduction.mass_share
  return dataclasses.replace(
    tokens,
    features=apply(reduction, tokens.features, mode=mode, mass=tokens.mass),
    positions=reduction.positions,
    valid=reduction.valid,
    mass=apply(reduction, mass, mode='sum'),
    kind=pick(tokens.kind),
    owner=jnp.where(reduction.valid, pick(tokens.owner), -1),
    protected=pick(tokens.protected),
  )


def reduce_signals(signals: Signals, reduction: Reduction) -> Signals:
  """Moves what a layer gave for N slots to K, for the next pruner there.

  Each kept slot has the keys, queries, attention and features of its
  representative.

  Args:
    signals: over N slots.
    reduction: from N to K slots.

  Returns:
    Signals over K slots.
  """

  def move(x: Array, axis: int) -> Array:
    return jnp.moveaxis(apply(reduction, jnp.moveaxis(x, axis, 1)), 1, axis)

  return map_signals(signals, move)


def map_signals(
  signals: Signals, move: Callable[[Array, int], Array]
) -> Signals:
  """Moves every signal that belongs to tokens, taps too.

  Args:
    signals: over N slots; what has no slots stays.
    move: from an array and the axis of its slots to another.

  Returns:
    The signals over the new slots.
  """
  slots = lambda name: SIGNAL_AXES[name].index('N')
  fields: dict[str, Any] = {
    name: move(x, slots(name))
    for name in SIGNAL_AXES
    if (x := getattr(signals, name)) is not None
  }
  taps = {tap: move(x, slots(tap.signal)) for tap, x in signals.taps.items()}
  return dataclasses.replace(signals, **fields, taps=taps)


def log_mass_bias(tokens: Tokens) -> Array:
  """Proportional attention: log(mass) on the logits of each key.

  A merged key then weighs as much as the tokens that it stands for (ToMe,
  arXiv:2210.09461, section 3.1, equation 1).

  Args:
    tokens: N slots.

  Returns:
    float32 [B, 1, 1, N]; 0 where padded (a mask is for that).
  """
  mass = jnp.where(tokens.valid & (tokens.mass > 0), tokens.mass, 1)
  return jnp.log(mass)[:, None, None, :]


def gather(x: Array, index: Array) -> Array:
  """Takes x [B, N, ...] at index [B, K] along the slots: [B, K, ...]."""
  return jax.vmap(lambda row, at: jnp.take(row, at, axis=0))(x, index)


def _check_slots(
  reduction: Reduction, name: str, x: Array, axis: Literal['N', 'K']
) -> None:
  """Refuses an array of other rows or slots; indexing would only clip."""
  batch, kept = reduction.index.shape
  assign = reduction.assign
  source = (
    assign.matrix.shape[2]
    if isinstance(assign, Dense)
    else assign.target.shape[1]
  )
  slots = source if axis == 'N' else kept
  if x.shape[:2] != (batch, slots):
    raise UserError(
      f'this reduction is from [B={batch}, N={source}] to [B={batch}, '
      f'K={kept}]; {name} must be [{batch}, {slots}, ...], got {x.shape}'
    )


def _multiply(reduction: Reduction, x: Array) -> Array:
  """M x, float32 [B, K, ...], of x float32 [B, N, ...]."""
  assign = reduction.assign
  slots = reduction.index.shape[1]
  if isinstance(assign, Dense):
    flat = x.reshape(*x.shape[:2], -1)
    y = jnp.einsum(
      'bkn,bnf->bkf',
      assign.matrix.astype(jnp.float32),
      flat,
      precision='highest',
    )
    return y.reshape(x.shape[0], slots, *x.shape[2:])
  if isinstance(assign, OneHot) and assign.merged is not None:
    return _gather_and_add(reduction, assign, x)
  sparse = links(assign)
  y = x[:, :, None] * _spread(sparse.weight, x[:, :, None])  # [B, N, J, ...]
  y = y.reshape(y.shape[0], -1, *x.shape[2:])
  return _add_rows(
    jnp.zeros((x.shape[0], slots, *x.shape[2:]), x.dtype),
    sparse.target.reshape(sparse.target.shape[0], -1),
    y,
  )


def _gather_and_add(reduction: Reduction, assign: OneHot, x: Array) -> Array:
  """M x as a gather of representatives plus the few rows that joined them.

  Only the rows that moved are scattered, not all N.
  """
  base = _where_valid(reduction.valid, gather(x, reduction.index))
  if not assign.merged:
    return base
  own = gather(reduction.index, jnp.maximum(assign.target, 0))
  slots = jnp.arange(x.shape[1])
  moved = (assign.target >= 0) & (own != slots[None])
  first = jnp.argsort(~moved, axis=1, stable=True)[:, : assign.merged]
  target = jnp.where(gather(moved, first), gather(assign.target, first), -1)
  return _add_rows(base, target, gather(x, first))


def _without_representatives(reduction: Reduction) -> Reduction:
  """The same slots, of all that went there but their representatives."""
  assign = reduction.assign
  if not isinstance(assign, OneHot):
    raise ValueError(
      "mode 'target_mean' needs a one-hot assignment, got "
      f'{type(assign).__name__}; use mean or mass'
    )
  own = gather(reduction.index, jnp.maximum(assign.target, 0))
  moved = own != jnp.arange(own.shape[1])[None]
  target = jnp.where(moved, assign.target, -1)
  return dataclasses.replace(reduction, assign=OneHot(target))


def _add_rows(base: Array, target: Array, rows: Array) -> Array:
  """Adds rows [B, M, ...] to base [B, K, ...] at target [B, M], -1 nowhere."""
  target = jnp.where(target < 0, base.shape[1], target)
  add = lambda b, t, r: b.at[t].add(r, mode='drop')
  return jax.vmap(add)(base, target, rows)


def links(assign: OneHot | Sparse) -> Sparse:
  """A one-hot or sparse assignment as links, [B, N, J]."""
  if isinstance(assign, Sparse):
    return assign
  target = assign.target[..., None]
  return Sparse(target=target, weight=(target >= 0).astype(jnp.float32))


def _spread(x: Array, like: Array) -> Array:
  """Adds trailing axes to x until it broadcasts against `like`."""
  return x.reshape(*x.shape, *(1,) * (like.ndim - x.ndim))


def _where_valid(valid: Array, x: Array) -> Array:
  return jnp.where(_spread(valid, x), x, jnp.zeros_like(x))
