"""Position policies: what coordinates kept tokens have.

Dimension letters: B batch, N source slots, K kept slots, P position axes, M
members of a slot.

'keep'     each kept token has its representative's position (FastV, DTD).
'first'    kept tokens have the positions of the row's first tokens, as many
           (MustDrop, SparseVLM's first version).
'compact'  kept tokens are counted 0, 1, ... on every axis, in slot order, as if
           the others had never been there (PyramidDrop, DivPrune).
'mean'     the mean position of all that went into a slot (LLaVolta); float32.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.types import Array, OneHot, Reduction


@dataclasses.dataclass(frozen=True, kw_only=True)
class Members:
  """Each slot has the positions of several of its members (PPE).

  Attributes:
    count: M, at least 1.
    axes: P of a token that nothing was merged into. A token with more (from an
      earlier reduction) keeps count * axes in all, as PPE's cascade does.
  """

  count: int
  axes: int = 1

  def __post_init__(self):
    for name in ('count', 'axes'):
      value = getattr(self, name)
      whole = isinstance(value, int) and not isinstance(value, bool)
      if not whole or value < 1:
        raise UserError(f'{name} is a whole number from 1 on, got {value!r}')


Policy = Literal['keep', 'compact', 'mean', 'first'] | Members


def keep(positions: Array, reduction: Reduction) -> Array:
  """Takes the representatives' positions [B, N, P] to [B, K, P]."""
  return reduction_lib.apply(reduction, positions)


def compact(positions: Array, reduction: Reduction) -> Array:
  """Counts the valid kept slots on every axis: [B, K, P]."""
  count = jnp.cumsum(reduction.valid, axis=1) - 1
  count = jnp.where(reduction.valid, count, 0).astype(positions.dtype)
  shape = (*count.shape, positions.shape[-1])
  return jnp.broadcast_to(count[..., None], shape)


def mean(positions: Array, reduction: Reduction) -> Array:
  """Averages the positions of each slot's sources: float32 [B, K, P]."""
  return reduction_lib.apply(
    reduction, positions.astype(jnp.float32), mode='mean'
  )


def first(positions: Array, reduction: Reduction) -> Array:
  """Gives the n kept tokens the first n of the sources' positions: [B, K, P].

  Padding among the sources must stand behind the valid tokens.
  """
  rank = jnp.maximum(jnp.cumsum(reduction.valid, axis=1) - 1, 0)
  rows = reduction_lib.gather(positions, rank)
  return jnp.where(reduction.valid[..., None], rows, 0)


def members(
  positions: Array,
  reduction: Reduction,
  *,
  count: int,
  weights: Array | None = None,
) -> Array:
  """The positions of each slot's heaviest members (PPE).

  PPE ("positional preservation embedding", `select_pos_topk` and
  `merge_tokens`): a slot with fewer members repeats them in turn. Without
  weights the last member in slot order comes first, as in the official code
  (which ignores its weights).

  Args:
    positions: [B, N, P].
    reduction: from N to K slots, one-hot.
    count: M.
    weights: [B, N] of the members; equal if not given. Ties go to the later
      one.

  Returns:
    [B, K, P M]: the M values of the first axis, then those of the next, so that
    `nn.split_sections` gives each its rotary features.

  Raises:
    ValueError: if the assignment is not one-hot.
  """
  if not isinstance(reduction.assign, OneHot):
    raise UserError(
      'members are known of one-hot assignments, got '
      f'{type(reduction.assign).__name__}; try the policy keep or mean'
    )
  target = reduction.assign.target
  batch, slots = target.shape
  kept = reduction.index.shape[1]
  weight = jnp.zeros(target.shape) if weights is None else weights
  at = jnp.broadcast_to(jnp.arange(slots), target.shape)
  group = jnp.where(target < 0, kept, target)
  order = jax.lax.sort(
    (group, -weight.astype(jnp.float32), -at), dimension=1, num_keys=3
  )[2]
  order = -order  # slots by group, the heaviest of each group first
  hit = group[:, None] == jnp.arange(kept)[None, :, None]
  number = jnp.sum(hit, axis=2)
  start = jnp.cumsum(number, axis=1) - number
  turn = jnp.arange(count)[None, None] % jnp.maximum(number, 1)[..., None]
  place = jnp.minimum(start[..., None] + turn, slots - 1)
  source = reduction_lib.gather(order, place.reshape(batch, -1))
  found = reduction_lib.gather(positions, source)
  found = found.reshape(batch, kept, count, -1).swapaxes(2, 3)
  found = found.reshape(batch, kept, -1)
  return jnp.where(reduction.valid[..., None], found, 0)


POLICIES = {'keep': keep, 'compact': compact, 'mean': mean, 'first': first}


def check(policy: Policy) -> None:
  """Refuses what is no position policy, with a UserError."""
  known = isinstance(policy, str) and policy in POLICIES
  if not known and not isinstance(policy, Members):
    raise UserError(
      f'unknown position policy {policy!r}; try one of {sorted(POLICIES)}, '
      'or Members'
    )


def place(
  positions: Array, reduction: Reduction, *, policy: Policy
) -> Reduction:
  """Sets the positions of a reduction by a policy's name.

  Args:
    positions: [B, N, P] of the sources.
    reduction: from N to K slots.
    policy: see the module; `Members` gives [B, K, P M].

  Returns:
    The reduction with positions [B, K, P].

  Raises:
    UserError: if the policy is unknown, or members do not divide.
  """
  if isinstance(policy, Members):
    count, left = divmod(policy.count * policy.axes, positions.shape[-1])
    if left or count < 1:
      raise UserError(
        f'{policy.count} members of {policy.axes} axes do not come from '
        f'positions of {positions.shape[-1]} axes; set axes to those of an '
        'unmerged token'
      )
    placed = members(positions, reduction, count=count)
    return dataclasses.replace(reduction, positions=placed)
  check(policy)
  placed = POLICIES[policy](positions, reduction)
  return dataclasses.replace(reduction, positions=placed)
