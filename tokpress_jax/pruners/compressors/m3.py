"""M3: one model for nested numbers of visual tokens, by average pooling.

Cai et al., "Matryoshka Multimodal Models" (2024, arXiv:2405.17430).
The tokens of a grid are averaged in windows after the projector, 576 to 144,
36, 9 or 1; a batch is trained at all numbers, and the loss is their mean.
Nothing of it is learned: the language model learns to read each. Before it
stands LLaVA's projector (`M3Projector`).

The official code takes the side of a window to be the root of N / K rounded
down, and leaves out what is over; here windows must tile the grid.

Dimension letters: B batch, N token slots, K new tokens, H rows and W columns of
a grid, D features, F features out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base as pruner_base
from tokpress_jax.pruners import budgets, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.pruners.mergers.windows import windows
from tokpress_jax.types import Array, Reduction, Signals, Tokens

SCALES = (576, 144, 36, 9, 1)


def nested_pool(
  x: Array, *, grid: tuple[int, int], scales: tuple[int, ...] = SCALES
) -> tuple[Array, ...]:
  """The tokens of a grid at each number of tokens.

  Args:
    x: [B, N, D] in raster order.
    grid: (H, W).
    scales: numbers K of tokens; N / K is a square whose root divides H and W.

  Returns:
    [B, K, D] for each, float32 means in the dtype of x.

  Raises:
    UserError: if x is not a grid, or a number does not fit.
  """
  refusals.check_inputs(x, grid)
  out = []
  for scale in scales:
    side = _side(x.shape[1], scale)
    rows, columns = refusals.check_divides(grid, side)
    y = x.astype(jnp.float32)
    y = y.reshape(x.shape[0], rows, side, columns, side, -1)
    y = y.mean(axis=(2, 4)).reshape(x.shape[0], scale, -1)
    out.append(y.astype(x.dtype))
  return tuple(out)


def nested_loss(
  loss: Callable[[Array], Array],
  x: Array,
  *,
  grid: tuple[int, int],
  scales: tuple[int, ...] = SCALES,
) -> Array:
  """The training loss: the mean of a loss over all numbers of tokens.

  A step costs as much as one at each number.

  Args:
    loss: of visual tokens [B, K, D]: a language model's, say.
    x: [B, N, D].
    grid: (H, W).
    scales: see `nested_pool`.

  Returns:
    A scalar.
  """
  each = [loss(y) for y in nested_pool(x, grid=grid, scales=scales)]
  return jnp.mean(jnp.stack(each))


class M3Projector(base.Compressor):
  """LLaVA's projector, then pooling; the defaults are the released model's.

  Attributes:
    width: D, of the tower's features.
    out: F, of the language model.
    grid: (H, W) of the image's tokens.
    dtype: of the matrix products.
  """

  width: int = 1024
  out: int = 4096
  grid: tuple[int, int] = (24, 24)
  dtype: Any = jnp.float32

  @nn.compact
  @refusals.refusing
  def __call__(self, x: Array, *, count: int | None = None) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D].
      count: K, see `nested_pool`; N if None, as LLaVA has it.

    Returns:
      [B, K, F] in raster order.

    Raises:
      UserError: if x is not the grid, or K does not fit.
    """
    refusals.check_inputs(x, self.grid, width=self.width)
    x = parts.project(x, self.out, self.dtype)
    if count is None:
      return x
    return nested_pool(x, grid=self.grid, scales=(count,))[0]


M3ProjectorConfig = base.config_of(M3Projector)


@dataclasses.dataclass(frozen=True, kw_only=True)
class M3(pruner_base.Pruner):
  """Average pooling as a pruner: several crops, padding, protected tokens.

  The tokens' positions are their rows and columns [B, N, 2]; windows do not
  reach from one owner to another.

  Attributes:
    budget: tokens of a row, over all of its crops.
  """

  budget: budgets.Budget = 36
  positions: positions_lib.Policy = 'mean'
  mode: ClassVar[reduction.Mode] = 'mean'

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Groups windows."""
    capacity = budgets.capacity(self.budget, tokens)
    side = _side(
      tokens.valid.shape[1] - tokens.num_protected,
      capacity - tokens.num_protected,
    )
    return windows(tokens, size=(side, side), capacity=capacity)


def _side(tokens: int, scale: int) -> int:
  """The side of a window."""
  whole = isinstance(scale, int) and scale > 0
  side = math.isqrt(tokens // scale) if whole else 0
  if side * side * scale != tokens:
    raise UserError(
      f'{tokens} tokens do not become {scale} by windows of equal sides; of '
      '576, take 576, 144, 64, 36, 16, 9, 4 or 1'
    )
  return side
