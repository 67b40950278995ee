"""TokenPacker: coarse queries that draw in the details of their region.

Li et al., "TokenPacker: efficient visual projector for multimodal LLM" (2024,
arXiv:2407.02392). A query is a window of s x s tokens made one by
bilinear resizing; it attends to the window's tokens, whose keys and values are
of several layers of the tower. An MLP follows.

Beyond the official code: any grid. As there, the output of the attention is not
added to the query.

Dimension letters: B batch, N tokens of a grid, K new tokens, D features, J
features of the joined layers, F features out.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax.nn.resize import resize
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.types import Array


class TokenPacker(base.Compressor):
  """The projector; the defaults are the released model's.

  Attributes:
    stride: s, 2, 3 or 4 for 144, 64 or 36 tokens of 576.
    grid: (H, W) of the image's tokens.
    width: D.
    joined: J.
    heads: of the attention.
    out: F, of the language model.
    dtype: of the matrix products.
  """

  stride: int = 2
  grid: tuple[int, int] = (24, 24)
  width: int = 1024
  joined: int = 4096
  heads: int = 8
  out: int = 4096
  dtype: Any = jnp.float32

  @property
  def inputs(self) -> dict[str, tuple[int, ...]]:
    """Of `base.Compressor`."""
    return super().inputs | {'levels': (math.prod(self.grid), self.joined)}

  @nn.compact
  @refusals.refusing
  def __call__(
    self, x: Array, levels: Array, *, mask: Array | None = None
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D], of the tower's last layer but one.
      levels: [B, N, J], layers joined along the features: 12, 16, 22 and 23 of
        24 in the released models.
      mask: bool [B, N], the levels that may be attended to; all if None. x
        counts everywhere.

    Returns:
      [B, K, F] in raster order.

    Raises:
      UserError: if x or levels is not the grid, or s does not divide it.
    """
    refusals.check_inputs(
      x,
      self.grid,
      width=self.width,
      levels=levels,
      joined=self.joined,
      mask=mask,
    )
    small = refusals.check_divides(self.grid, self.stride)
    norm = lambda name: parts.norm(self.dtype, name)

    def project(name: str) -> Array:
      layers = parts.Projector((self.width,) * 2, dtype=self.dtype, name=name)
      return norm(f'norm_{name}')(layers(levels))

    coarse = resize(parts.split_grid(x, self.grid), small, method='bilinear')
    coarse = coarse.reshape(x.shape[0], -1, x.shape[-1])
    query = parts.dense(self.width, self.dtype, 'q', bias=False)(coarse)
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      norm('norm_q')(query),
      project('k'),
      project('v'),
      mask=mask,
      regions=parts.grid_regions(self.grid, (self.stride,) * 2),
    )
    return parts.project(y, self.out, self.dtype)


TokenPackerConfig = base.config_of(TokenPacker)
