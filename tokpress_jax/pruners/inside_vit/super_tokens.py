"""Super tokens: attention among the means of soft groups of pixels (SViT).

Huang et al., "Vision transformer with super token sampling" (2022,
arXiv:2211.11167), section 3.2. A grid of super tokens is drawn from the pixels
as superpixels are: each pixel belongs softly to the 3 x 3 super tokens around
it. These attend to each other, and what they become is spread over the pixels
by the same shares.

As in the official code no gradient flows through the shares, pixels at the
border give part of their share to super tokens of zeros outside, and an image
whose sides the cells do not divide is filled up with zeros that count.

Dimension letters: B batch, H rows, W columns, D features, r rows and c columns
of super tokens, p pixels of a cell, A heads.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.nn.attention import dot_product_attention
from tokpress_jax.pruners.window_grids import from_cells, to_cells
from tokpress_jax.types import Array

_OFFSETS = tuple((i, j) for i in range(3) for j in range(3))


def neighbours(x: Array) -> Array:
  """The 3 x 3 cells around each, zeros outside: [B, r, c, F] to [..., 9, F]."""
  rows, columns = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  cut = [padded[:, i : i + rows, j : j + columns] for i, j in _OFFSETS]
  return jnp.stack(cut, axis=3)


def gather_back(x: Array) -> Array:
  """Adds up what cells give those around them: [B, r, c, 9, F] to [B, r, c, F].

  The transpose of `neighbours`; what goes outside is lost.
  """
  batch, rows, columns, _, width = x.shape
  total = jnp.zeros((batch, rows + 2, columns + 2, width), x.dtype)
  for k, (i, j) in enumerate(_OFFSETS):
    total = total.at[:, i : i + rows, j : j + columns].add(x[:, :, :, k])
  return total[:, 1:-1, 1:-1]


def shares(pixels: Array, *, iterations: int = 1) -> tuple[Array, Array]:
  """How much of each pixel belongs to the super tokens around it.

  Args:
    pixels: [B, r, c, p, D], cell by cell.
    iterations: of drawing super tokens from shares; 1 takes the shares in the
      cells' means.

  Returns:
    float32 [B, r, c, p, 9], adding up to 1 with those outside; and the super
    tokens' sums of shares float32 [B, r, c, 1]. Without gradient.
  """
  x = jax.lax.stop_gradient(pixels.astype(jnp.float32))
  centres = x.mean(axis=3)
  for step in range(iterations):
    logits = jnp.einsum(
      'brcpd,brckd->brcpk', x, neighbours(centres), precision='highest'
    )
    share = jax.nn.softmax(logits * x.shape[-1] ** -0.5, axis=-1)
    total = gather_back(share.sum(axis=3)[..., None])
    if step < iterations - 1:
      centres = gathered(x, share, total)
  return share, total


def gathered(pixels: Array, share: Array, total: Array) -> Array:
  """Super tokens [B, r, c, D]: means of pixels by `shares` (equation 5)."""
  parts = jnp.einsum('brcpk,brcpd->brckd', share, pixels, precision='highest')
  return gather_back(parts) / (total + 1e-12)


def spread(tokens: Array, share: Array) -> Array:
  """Pixels [B, r, c, p, D] of super tokens [B, r, c, D] (equation 7)."""
  return jnp.einsum(
    'brcpk,brckd->brcpd', share, neighbours(tokens), precision='highest'
  )


class SuperTokenAttention(nn.Module):
  """Attention of a grid of features, among its super tokens.

  Attributes:
    heads: A.
    size: pixels of a cell, (rows, columns); (1, 1) is attention of all pixels.
    iterations: see `shares`.
    dtype: of the matrix products of the attention.
  """

  heads: int
  size: tuple[int, int] = (8, 8)
  iterations: int = 1
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, D] to the same shape.

    Raises:
      ValueError: if the heads do not divide D, a cell is empty or there are no
        iterations.
    """
    if x.shape[-1] % self.heads or min(*self.size, self.iterations) < 1:
      raise ValueError(
        f'{self.heads} heads must divide {x.shape[-1]} features, and '
        f'size={self.size} and iterations={self.iterations} be 1 or more'
      )
    if self.size == (1, 1):
      return self._attend(x).astype(x.dtype)
    pixels = to_cells(x.astype(jnp.float32), self.size)
    share, total = shares(pixels, iterations=self.iterations)
    tokens = self._attend(gathered(pixels, share, total))
    shape = (x.shape[1], x.shape[2])
    out = from_cells(spread(tokens, share), self.size, shape)
    return out.astype(x.dtype)

  def _attend(self, x: Array) -> Array:
    """Attention of all cells [B, r, c, D]."""
    width = x.shape[-1]
    qkv = nn.DenseGeneral(
      (self.heads, 3, width // self.heads),
      use_bias=False,
      dtype=self.dtype,
      name='qkv',
    )(x.reshape(x.shape[0], -1, width))  # [B, N, A, 3, D / A]
    query, key, value = (qkv[:, :, :, i].swapaxes(1, 2) for i in range(3))
    out = dot_product_attention(query, key, value).swapaxes(1, 2)
    out = out.reshape(x.shape)
    out = nn.Dense(width, dtype=self.dtype, name='out')(out)
    return out.astype(jnp.float32)
