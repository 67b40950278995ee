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
features of the joined layers, E features of the text.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners.compressors import inputs, parts
from tokpress_jax.types import Array


class QueCC(nn.Module):
  """The compressor, before a projector; the defaults are the official ones.

  Attributes:
    stride: s, 4 for 36 tokens of 576, 24 for one.
    grid: (H, W) of the image's tokens.
    width: D.
    heads: of the attention.
    dtype: of the matrix products.
  """

  stride: int = 4
  grid: tuple[int, int] = (24, 24)
  width: int = 1024
  heads: int = 8
  dtype: Any = jnp.float32

  @nn.compact
  @inputs.refusing
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
      [B, K, D] in raster order.

    Raises:
      UserError: if x or levels is not the grid, s does not divide it, or text
        is not [B, E].
    """
    inputs.check_inputs(
      x, self.grid, width=self.width, levels=levels, mask=mask
    )
    inputs.check_divides(self.grid, self.stride)
    shape = arrays.shape_of(text)
    if len(shape) != 2 or shape[0] != x.shape[0]:
      raise UserError(
        f'expected one text of [{x.shape[0]}, E] for each image, got '
        f'{shape or text!r}; repeat it for the crops of an image'
      )

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
    return parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      query.reshape(x.shape[0], -1, self.width),
      project('k', levels),
      project('v', levels),
      mask=mask,
      regions=parts.grid_regions(self.grid, (self.stride,) * 2),
    )
