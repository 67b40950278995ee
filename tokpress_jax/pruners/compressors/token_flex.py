"""TokenFLEX: a projector trained at random numbers of tokens.

Hu et al., "TokenFLEX: unified VLM training for flexible visual tokens
inference" (2025, arXiv:2504.03154). The tower's grid is averaged to 8 x 8,
12 x 12 or 16 x 16 places, which need not divide it, and goes through a SwiGLU
projector. A training step draws one of the three, 0.2, 0.3 and 0.5 of the time.

There is no public code, and the sizes of the projector's layers and whether
they have biases are not published: `hidden` is the language model's width
unless given, biases are left out, as in most SwiGLU layers. Our own is that a
drawn number may be traced: tokens are padded to the most, so that training
compiles once.

Dimension letters: B batch, N tokens of a grid, K new tokens, S choices of K, D
features, F features out.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.nn.resize import resize_matrix
from tokpress_jax.pruners.compressors import parts
from tokpress_jax.types import Array


class TokenFLEX(nn.Module):
  """The projector.

  Attributes:
    sides: of the grids of new tokens; S of them.
    weights: how often each is drawn in training.
    grid: (H, W) of the image's tokens.
    out: F, of the language model.
    hidden: features between the projector's layers; F if None.
    dtype: of the matrix products.
  """

  sides: tuple[int, ...] = (8, 12, 16)
  weights: tuple[float, ...] = (0.2, 0.3, 0.5)
  grid: tuple[int, int] = (27, 27)
  out: int = 3584
  hidden: int | None = None
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the projector."""
    if len(self.sides) != len(self.weights) or min(self.sides) < 1:
      raise UserError(
        f'sides={self.sides} must be 1 or more, with as many weights, got '
        f'{self.weights}'
      )
    hidden = self.out if self.hidden is None else self.hidden
    dense = lambda n: nn.Dense(
      n, use_bias=False, dtype=self.dtype, kernel_init=parts.INIT
    )
    self.gate, self.value = dense(hidden), dense(hidden)
    self.last = dense(self.out)

  def __call__(self, x: Array, *, side: int) -> Array:
    """Makes a static number of tokens.

    Args:
      x: [B, N, D].
      side: of the grid of new tokens; any, those of training are `sides`.

    Returns:
      [B, side^2, F] in raster order.

    Raises:
      UserError: if x is not the grid.
    """
    parts.check_grid(x, self.grid)
    return self._project(_times(pooling(self.grid, side), x))

  def padded(self, x: Array, choice: Array) -> tuple[Array, Array]:
    """Makes the number of tokens of a traced choice.

    Args:
      x: [B, N, D].
      choice: int32 [B] or [], the place in `sides`.

    Returns:
      [B, K, F] and which are valid, bool [B, K], at the largest K.
    """
    parts.check_grid(x, self.grid)
    most = max(self.sides) ** 2
    each = [pooling(self.grid, side) for side in self.sides]
    table = np.stack([np.pad(m, ((0, most - len(m)), (0, 0))) for m in each])
    number = jnp.asarray([len(m) for m in each])
    choice = jnp.broadcast_to(choice, x.shape[:1])
    valid = jnp.arange(most)[None] < number[choice][:, None]
    return self._project(_times(jnp.asarray(table)[choice], x)), valid

  def draw(self, rng: Array) -> Array:
    """One of the sides by its weight, for a step: its place, int32 []."""
    share = jnp.asarray(self.weights, jnp.float32)
    return jax.random.categorical(rng, jnp.log(share)).astype(jnp.int32)

  def _project(self, x: Array) -> Array:
    return self.last(nn.silu(self.gate(x)) * self.value(x))


def pooling(grid: tuple[int, int], side: int) -> np.ndarray:
  """Adaptive average pooling as a matrix: float32 [side^2, N].

  Place i of an axis is the mean over i n / side, rounded down, to (i + 1) n /
  side, rounded up; neighbours overlap where side does not divide n.

  Args:
    grid: (H, W).
    side: of the new grid.
  """
  rows, columns = (resize_matrix(n, side, 'area') for n in grid)
  both = np.einsum('ph,qw->pqhw', rows, columns)
  return both.reshape(side * side, -1)


def _times(matrix: Array | np.ndarray, x: Array) -> Array:
  """A matrix [(B,) K, N] times tokens [B, N, D], float32 inside."""
  y = jnp.matmul(matrix, x.astype(jnp.float32), precision='highest')
  return y.astype(x.dtype)
