"""QueCC: windows become one token each, in the light of the user's question.

Li et al., "Inference optimal VLMs need fewer visual tokens and more parameters"
(2024, arXiv:2411.03312). An embedding of the question is added to
the image's tokens, a depth-wise convolution makes queries of them, and each
attends to its window's tokens, as in TokenPacker.

Beyond the official code: any grid, several crops (as rows of the batch). As
there, the output of the attention is not added to the query, and keys and
values do not see the question. Its text is cut out of the decoded prompt and
goes through the language model; here the embedding is given.

Dimension letters: B batch, N tokens of a grid, K new tokens, D features, J
features of the joined layers, E features of the text, F features out.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.types import Array


class QueCC(base.Compressor):
  """The compressor; the defaults are the official ones.

  Attributes:
    stride: s, 4 for 36 tokens of 576, 24 for one.
    grid: (H, W) of the image's tokens.
    width: D.
    joined: J.
    text: E.
    heads: of the attention.
    out: F, of the language model, behind two more linear layers; None gives
      the tokens that enter these.
    dtype: of the matrix products.
  """

  stride: int = 4
  grid: tuple[int, int] = (24, 24)
  width: int = 1024
  joined: int = 4096
  text: int = 4096
  heads: int = 8
  out: int | None = None
  dtype: Any = jnp.float32

  @property
  def inputs(self) -> dict[str, tuple[int, ...]]:
    """Of `base.Compressor`."""
    levels = (math.prod(self.grid), self.joined)
    return super().inputs | {'levels': levels, 'text': (self.text,)}

  @nn.compact
  @refusals.refusing
  def __call__(
    self, x: Array, levels: Array, text: Array, *, mask: Array | None = None
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D], of the tower's last layer but one.
      levels: [B, N, J], layers joined along the features.
      text: [B, E], the question's embedding: the language model's last hidden
        state at its end.
      mask: bool [B, N], the levels that may be attended to; all if None. x
        counts everywhere.

    Returns:
      [B, K, D] or [B, K, F] in raster order.

    Raises:
      UserError: if x or levels is not the grid, s does not divide it, or text
        is not [B, E].
    """
    refusals.check_inputs(
      x,
      self.grid,
      width=self.width,
      levels=levels,
      joined=self.joined,
      mask=mask,
    )
    refusals.check_divides(self.grid, self.stride)
    refusals.check_text(text, len(x), self.text)

    def project(name: str, y: Array) -> Array:
      layers = parts.Projector((self.width,) * 2, dtype=self.dtype, name=name)
      return parts.norm(self.dtype, f'norm_{name}')(layers(y))

    asked = parts.dense(self.width, self.dtype, 'text')(text)
    asked = parts.norm(self.dtype, 'norm_text')(asked)
    query = project('q', x + asked[:, None].astype(x.dtype))
    query = nn.Conv(
      self.width,
      (self.stride,) * 2,
      strides=self.stride,
      padding='VALID',
      feature_group_count=self.width,
      dtype=self.dtype,
      name='down',
    )(parts.split_grid(query, self.grid))
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      query.reshape(x.shape[0], -1, self.width),
      project('k', levels),
      project('v', levels),
      mask=mask,
      regions=parts.grid_regions(self.grid, (self.stride,) * 2),
    )
    return parts.project(y, self.out, self.dtype)


QueCCConfig = base.config_of(QueCC)
