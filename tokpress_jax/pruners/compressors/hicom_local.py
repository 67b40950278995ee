"""HICom's local compressor: one token of each region, the text its query.

See `hicom`. A region is 4 frames of 3 x 3 places; a query that is the region
made small, or the text, attends to the region's tokens. As in the official code
there is one head and no projection; where regions do not divide the grid they
overlap (`parts.spans`), and ours may be those that it cannot divide.

Dimension letters: B batch, T frames, H rows and W columns, N = T H W tokens, R
regions, S tokens of a region, D features, F features out.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.nn import l2_normalize
from tokpress_jax.nn.resize import resize_matrix
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.pruners.compressors.hicom import Adapted, Grid, HICom
from tokpress_jax.types import Array


class HIComLocal(HICom):
  """One token for each region; the defaults are the released model's.

  Fields beside `HICom`'s, of which `adapt` may name 'q', 'k', 'v' and 'g', the
  text. As in the official code queries that are the text ('direct') are not
  adapted.

  Attributes:
    sizes: of a region; those of an image are (1, 3, 3).
  """

  adaptable: ClassVar[str] = 'qkvg'

  sizes: Grid = (4, 3, 3)

  @property
  def regions(self) -> np.ndarray:
    """The tokens of each region: int [R, S]."""
    return parts.grid_regions(self.grid, self.sizes)

  @property
  def new_grid(self) -> Grid:
    """Regions along each axis."""
    frames, rows, columns = (
      len(parts.spans(n, size))
      for n, size in zip(self.grid, self.sizes, strict=True)
    )
    return frames, rows, columns

  @nn.compact
  @refusals.refusing
  def __call__(
    self,
    x: Array,
    text: Array | None = None,
    *,
    joint: Array | None = None,
    text_valid: Array | None = None,
    mask: Array | None = None,
    logit_scale: Array | None = None,
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D].
      text: see `hicom.Guide`.
      joint: [B, N, D], keys in the space of the texts; x if None.
      text_valid: see `hicom.Guide`.
      mask: bool [B, N], tokens that are there; `region_valid` says which
        regions then are.
      logit_scale: float32 [], the logarithm of what products of unit vectors
        are multiplied by (SigLIP's); None is D ** -0.5, of vectors as they are.

    Returns:
      [B, R, F].

    Raises:
      UserError: if x is not the grid, or the text does not fit the guide.
    """
    self.check(x, mask)

    def adapted(part: str, y: Array, depth: int = 2) -> Array:
      if part not in self.adapt:
        return y
      return Adapted(depth, dtype=self.dtype, name=f'adapt_{part}')(y)

    if joint is not None and arrays.shape_of(joint) != x.shape:
      raise UserError(
        f'joint holds keys of the same tokens, {x.shape}, got '
        f'{arrays.said(joint)}'
      )
    unit = joint is not None and logit_scale is not None
    keys = x if joint is None else joint
    if unit:
      keys = l2_normalize(keys)
      text = None if text is None else l2_normalize(text)
    query = small(x, self.grid, self.new_grid, mask=mask)
    if self.guide != 'direct':
      query = adapted('q', query, 1)
    query = self.guided(query, text, text_valid)
    scale = None
    if logit_scale is not None:
      query, scale = query * jnp.exp(logit_scale).astype(query.dtype), 1.0
    one_head = lambda y: y[:, None].astype(self.dtype)
    y = parts.attend_in_regions(
      one_head(query),
      one_head(adapted('k', keys)),
      one_head(adapted('v', x)),
      regions=self.regions,
      mask=mask,
      scale=scale,
    )[:, 0]
    return self.read_out(y)

  def region_valid(self, mask: Array) -> Array:
    """Regions with a token that is there, bool [B, R] of [B, N]."""
    return mask[:, self.regions].any(axis=2)


HIComLocalConfig = base.config_of(HIComLocal)


def small(
  x: Array, grid: Grid, new_grid: Grid, *, mask: Array | None = None
) -> Array:
  """A video made small, trilinear: [B, N, D] to [B, R, D].

  Args:
    x: [B, N, D].
    grid: (T, H, W).
    new_grid: of the result.
    mask: bool [B, N]; what is not there has no weight.
  """
  each = [
    resize_matrix(n, m, 'bilinear') for n, m in zip(grid, new_grid, strict=True)
  ]

  def resize(y: Array) -> Array:
    y = y.reshape(len(y), *grid, -1)
    for axis, matrix in enumerate(each, 1):
      y = jnp.tensordot(matrix, y, axes=(1, axis), precision='highest')
      y = jnp.moveaxis(y, 0, axis)
    return y.reshape(len(y), -1, y.shape[-1])

  y = x.astype(jnp.float32)
  if mask is None:
    return resize(y).astype(x.dtype)
  there = mask[..., None].astype(jnp.float32)
  share = resize(there)
  # What is not there may be anything.
  y = resize(jnp.where(mask[..., None], y, 0)) / jnp.maximum(share, 1e-6)
  return y.astype(x.dtype)
