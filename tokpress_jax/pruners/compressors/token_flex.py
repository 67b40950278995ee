"""TokenFLEX: a projector trained at random numbers of tokens.

Hu et al., "TokenFLEX: unified VLM training for flexible visual tokens
inference" (2025, arXiv:2504.03154). The tower's grid is averaged to 8 x 8,
12 x 12 or 16 x 16 places, which need not divide it, and goes through a SwiGLU
projector. A training step draws one of the three, 0.2, 0.3 and 0.5 of the time.

The paper has no public code and does not give the sizes of the projector's
layers. Those here are of the projector of Ristretto-3B, which the same lab
released: a norm, 3 x the width inside, biases; and the grid is resized to the
next multiple of the new one before it is averaged ('resized'). PyTorch's
adaptive pooling, whose bins overlap, is 'adaptive'.

Our own is that a drawn number may be traced: tokens are padded to the most, so
that training compiles once. And grids need not be square.

Dimension letters: B batch, N tokens of a grid, K new tokens, S choices of K, D
features, F features out.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.nn import LayerNorm
from tokpress_jax.nn.resize import resize_matrix
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.types import Array

Pooling = Literal['resized', 'adaptive']


class TokenFLEX(base.Compressor):
  """The projector.

  Attributes:
    sides: of the grids of new tokens; S of them.
    weights: how often each is drawn in training.
    grid: (H, W) of the image's tokens.
    width: D.
    out: F, of the language model.
    ratio: features between the projector's layers over D.
    pooling: see the module.
    dtype: of the matrix products.
  """

  sides: tuple[int, ...] = (8, 12, 16)
  weights: tuple[float, ...] = (0.2, 0.3, 0.5)
  grid: tuple[int, int] = (27, 27)
  width: int = 1152
  out: int = 3584
  ratio: int = 3
  pooling: Pooling = 'resized'
  dtype: Any = jnp.float32

  @refusals.refusing
  def __call__(self, x: Array, *, side: int | None = None) -> Array:
    """Makes a static number of tokens.

    Args:
      x: [B, N, D].
      side: of the grid of new tokens; any, those of training are `sides`, and
        None is the largest.

    Returns:
      [B, side^2, F] in raster order.

    Raises:
      UserError: if x is not the grid.
    """
    self._check(x)
    side = max(self.sides) if side is None else side
    matrix = pooling_matrix(self.grid, side, method=self.pooling)
    return self._project(_times(matrix, x))

  def padded(self, x: Array, choice: Array) -> tuple[Array, Array]:
    """Makes the number of tokens of a traced choice.

    Args:
      x: [B, N, D].
      choice: int32 [B] or [], the place in `sides`.

    Returns:
      [B, K, F] and which are valid, bool [B, K], at the largest K.
    """
    self._check(x)
    if not jnp.issubdtype(jnp.asarray(choice).dtype, jnp.integer):
      raise UserError(
        f'choice is the place of a side in sides={self.sides}, int32 [B] or '
        f'[], got {arrays.said(choice)}'
      )
    most = max(self.sides) ** 2
    each = [
      pooling_matrix(self.grid, side, method=self.pooling)
      for side in self.sides
    ]
    table = np.stack([np.pad(m, ((0, most - len(m)), (0, 0))) for m in each])
    number = jnp.asarray([len(m) for m in each])
    choice = jnp.broadcast_to(choice, x.shape[:1])
    valid = jnp.arange(most)[None] < number[choice][:, None]
    return self._project(_times(jnp.asarray(table)[choice], x)), valid

  def draw(self, rng: Array) -> Array:
    """One of the sides by its weight, for a step: its place, int32 []."""
    if not arrays.is_key(rng):
      raise UserError(f'rng must be a typed key, got {arrays.said(rng)}')
    share = jnp.asarray(self.weights, jnp.float32)
    return jax.random.categorical(rng, jnp.log(share)).astype(jnp.int32)

  def _check(self, x: Array) -> None:
    """Refuses sizes that do not fit."""
    refusals.check_inputs(x, self.grid, width=self.width)
    if len(self.sides) != len(self.weights) or min(self.sides) < 1:
      raise UserError(
        f'sides={self.sides} must be 1 or more, with as many weights, got '
        f'{self.weights}'
      )

  @nn.compact
  @refusals.refusing
  def _project(self, x: Array) -> Array:
    hidden = self.ratio * x.shape[-1]
    dense = lambda n, name: parts.dense(n, self.dtype, name)
    x = LayerNorm(eps=1e-5, dtype=self.dtype, name='norm')(x)
    y = nn.silu(dense(hidden, 'gate')(x)) * dense(hidden, 'value')(x)
    return dense(self.out, 'out_proj')(y)


TokenFLEXConfig = base.config_of(TokenFLEX)


def pooling_matrix(
  grid: tuple[int, int], side: int, *, method: Pooling = 'resized'
) -> np.ndarray:
  """Pooling of a grid to a square one as a matrix: float32 [side^2, N].

  Args:
    grid: (H, W).
    side: of the new grid.
    method: 'resized', bilinear (corners on corners) to the next multiple of
      `side`, then means; or 'adaptive', place i of an axis the mean over
      i n / side, rounded down, to (i + 1) n / side, rounded up.

  Raises:
    UserError: if the method is unknown, or there is no such side.
  """
  if not isinstance(side, int) or side < 1:
    raise UserError(f'a side is a whole number from 1 on, got {side!r}')
  if method not in ('resized', 'adaptive'):
    raise UserError(f"pooling is 'resized' or 'adaptive', got {method!r}")

  def axis(length: int) -> np.ndarray:
    if method == 'adaptive':
      return resize_matrix(length, side, 'area')
    number = -(-length // side) * side
    at = np.arange(number) * (length - 1) / max(number - 1, 1)
    apart = np.abs(at[:, None] - np.arange(length))
    matrix = np.maximum(1 - apart, 0)
    return matrix.reshape(side, -1, length).mean(axis=1)

  rows, columns = map(axis, grid)
  both = np.einsum('ph,qw->pqhw', rows, columns)
  return both.reshape(side * side, -1).astype(np.float32)


def _times(matrix: Array | np.ndarray, x: Array) -> Array:
  """A matrix [(B,) K, N] times tokens [B, N, D], float32 inside."""
  y = jnp.matmul(matrix, x.astype(jnp.float32), precision='highest')
  return y.astype(x.dtype)
