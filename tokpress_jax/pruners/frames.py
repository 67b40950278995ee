"""Frames of a video in one row: the same places, frame after frame.

Dimension letters: B batch, N token slots, T frames, S slots of one frame, D
features.
"""

from __future__ import annotations

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.types import Array, Tokens


def frames_of(tokens: Tokens) -> tuple[int, int]:
  """(T, S) of a row of whole frames.

  Args:
    tokens: [B, T S], of one grid (T, H, W), or of T grids (1, H, W) as
      `join_crops` gives them.

  Returns:
    Numbers of frames and of their slots.

  Raises:
    UserError: if the grids do not say so.
  """
  grids, slots = tokens.grids, tokens.valid.shape[1]
  number = sum(g[0] for g in grids)
  if len({g[1:] for g in grids}) != 1 or slots != number * (
    grids[0][1] * grids[0][2]
  ):
    raise UserError(
      f'a video is {slots} slots of whole frames of one size, got grids '
      f'{grids}; give Tokens.create grids=((frames, rows, columns),), and no '
      'class or text tokens among the slots'
    )
  return number, slots // number


def there(valid: Array, *, frames: int) -> Array:
  """Frames that hold any token: bool [B, T] of [B, T S]."""
  return valid.reshape(valid.shape[0], frames, -1).any(axis=2)


def has_before(valid: Array, *, frames: int) -> Array:
  """Whether the same place of the frame before is there: bool [B, T S]."""
  size = valid.shape[1] // frames
  return jnp.pad(valid, ((0, 0), (size, 0)))[:, : valid.shape[1]]
