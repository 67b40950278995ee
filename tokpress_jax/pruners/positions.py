"""Position policies: what coordinates kept tokens have.

Dimension letters: B batch, N source slots, K kept slots, P position axes.

'keep'     each kept token has its representative's position (FastV, DTD).
'compact'  kept tokens are counted 0, 1, ... on every axis, in slot order, as if
           the others had never been there (PyramidDrop, DivPrune).
'mean'     the mean position of all that went into a slot (LLaVolta); float32.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import reduction as reduction_lib
from tokpress_jax.types import Array, Reduction

Policy = Literal['keep', 'compact', 'mean']


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


POLICIES = {'keep': keep, 'compact': compact, 'mean': mean}


def place(
  positions: Array, reduction: Reduction, *, policy: Policy
) -> Reduction:
  """Sets the positions of a reduction by a policy's name.

  Args:
    positions: [B, N, P] of the sources.
    reduction: from N to K slots.
    policy: see the module.

  Returns:
    The reduction with positions [B, K, P].

  Raises:
    UserError: if the policy is unknown.
  """
  if policy not in POLICIES:
    raise UserError(
      f'unknown position policy {policy!r}; try one of {sorted(POLICIES)}'
    )
  placed = POLICIES[policy](positions, reduction)
  return dataclasses.replace(reduction, positions=placed)
