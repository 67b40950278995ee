"""What a learned compressor refuses: other tokens, arguments and weights.

Dimension letters: B batch, N tokens of a grid, D features, J features of joined
layers.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import flax.errors
import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import checks
from tokpress_jax.types import Array

_UNREAD = object()


def check_inputs(
  x: Array,
  grid: tuple[int, ...],
  *,
  width: int | None = None,
  levels: Any = _UNREAD,
  joined: int | None = None,
  mask: Array | None = None,
) -> None:
  """Refuses tokens that are not those of a grid.

  Args:
    x: [B, N, D].
    grid: of N places.
    width: D, if it is known.
    levels: [B, N, J], of the same grid, where they are read.
    joined: J, if it is known.
    mask: bool [B, N], what may be attended to; levels (x, if there are none)
      may hold anything elsewhere.

  Raises:
    UserError: lists what does not fit, and, outside of `jit`, rows with NaN.
  """
  total = math.prod(grid)
  causes = []
  shape = arrays.shape_of(x)
  if len(shape) != 3 or shape[1] != total:
    causes.append(
      f'a grid of {grid} has {total} tokens: expected [B, {total}, D], got '
      f'{shape or arrays.said(x)}; set `grid`, and leave class tokens out'
    )
  elif width is not None and shape[2] != width:
    causes.append(
      f'these tokens have {shape[2]} features, and width={width} are expected; '
      'set `width` to those of the tower'
    )
  if levels is not _UNREAD:
    other = arrays.shape_of(levels)
    if len(other) != 3 or other[:2] != shape[:2]:
      causes.append(
        f'levels are [B, N, J] of the same grid, {list(shape[:2])} and their '
        f'features joined, got {other or arrays.said(levels)}'
      )
    elif joined not in (None, other[2]):
      causes.append(
        f'these levels have {other[2]} features, and joined={joined} are '
        'expected; set `joined` to those of the layers that are joined'
      )
  if mask is not None and (
    arrays.shape_of(mask) != shape[:2] or mask.dtype != bool
  ):
    causes.append(
      f'mask must be bool [B, N], {list(shape[:2])}, got {arrays.said(mask)}'
    )
  checks.refuse('this compressor', causes or _broken(x, levels, mask))


def _broken(x: Array, levels: Any, mask: Array | None) -> list[str]:
  """Finds rows with NaN, of concrete tokens that are there."""

  def wrong(y: Array, there: Array | None) -> Array:
    bad = ~jnp.isfinite(y).all(axis=2)
    return (bad if there is None else bad & there).any(axis=1)

  given = [('tokens', x, mask)]
  if levels is not _UNREAD:
    given = [('tokens', x, None), ('levels', levels, mask)]
  return [
    f'{name} of rows {bad} hold NaN or infinity'
    for name, y, there in given
    if (bad := arrays.rows_that(wrong, y, there))
  ]


def refusing(call: Callable[..., Any]) -> Callable[..., Any]:
  """Says clearly what a module does not take: arguments, weights of others.

  For below `nn.compact`. Python's own error names an argument that is not
  there, Flax's a parameter of another shape; here both are `UserError`s.
  """
  signature = inspect.signature(call)

  @functools.wraps(call)
  def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    name = type(self).__name__
    try:
      signature.bind(self, *args, **kwargs)
    except TypeError as error:
      taken = [p for p in signature.parameters if p != 'self']
      raise UserError(
        f'{name} takes {", ".join(taken)}: {error}'
        + ('' if 'text' in taken else f'; {name} reads no text')
      ) from error
    try:
      return call(self, *args, **kwargs)
    except (
      flax.errors.ScopeParamShapeError,
      flax.errors.ScopeParamNotFoundError,
    ) as error:
      why = str(error).split(' (https')[0]
      raise UserError(
        f'these weights of {name} are for inputs of other widths, or of '
        f'another config: {why}'
      ) from error

  return run


def check_text(text: Any, rows: int, width: int) -> None:
  """Refuses a text that is not [B, E], one for each row of tokens."""
  shape = arrays.shape_of(text)
  if shape != (rows, width):
    raise UserError(
      f'expected one text of [{rows}, {width}] for each image, got '
      f'{shape or text!r}; repeat it for the crops of an image'
    )


def check_divides(grid: tuple[int, int], stride: int) -> tuple[int, int]:
  """The grid of windows of `stride` x `stride`, if they tile it."""
  if stride < 1 or any(n % stride for n in grid):
    raise UserError(
      f'windows of {stride} x {stride} do not tile a grid of {grid}; take a '
      'divisor of both sides'
    )
  return grid[0] // stride, grid[1] // stride
