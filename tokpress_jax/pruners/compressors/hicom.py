"""HICom: an instruction decides what is kept of a video, near and far.

Liu et al., "Hybrid-level instruction injection for video token compression in
multi-modal large language models" (2025, arXiv:2503.16036). The local
compressor makes one token of each 4 frames x 3 x 3 places, by attention of a
query that is the region made small to the region's tokens; the global one lets
32 learned queries look at the whole video. The instruction goes into the
queries:

'direct'  it is the query (images and texts share SigLIP's space);
'coarse'  its pooled embedding scales and shifts the queries;
'fine'    the queries attend to its words;
'off'     it is not read.

What is adapted (`adapt`) is mixed in by a factor alpha that starts at 0. Where
regions do not divide the grid they overlap (`parts.spans`).

As in the official code, the local compressor has one head and no projections.
SigLIP's bias, one number added to all logits, is left out: a softmax is blind
to it. The paper guides the local one directly and the global one coarsely,
which are our defaults. The published scripts ask for 'direct' guidance of both
(the suffix `_coarse` of the projector's name is not read); the global queries
are then one and the same, and so are its tokens. Ours are batches, masks, and
regions that the official code cannot divide.

Dimension letters: B batch, T frames, H rows and W columns, N = T H W tokens, R
regions, K queries, M words, D features, E features of the text, F features out.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.nn import l2_normalize
from tokpress_jax.nn.resize import resize_matrix
from tokpress_jax.pruners.compressors import inputs, parts
from tokpress_jax.types import Array

Kind = Literal['off', 'direct', 'coarse', 'fine']
Grid = tuple[int, int, int]


class Adapted(nn.Module):
  """(1 - alpha) x + alpha norm(f(x)), alpha 0 at first.

  Attributes:
    depth: layers of f; 1 is without a bias.
    dtype: of the matrix products.
  """

  depth: int = 2
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., D] to as much."""
    width = x.shape[-1]
    if self.depth == 1:
      y = parts.dense(width, self.dtype, 'fc1', bias=False)(x)
    else:
      widths = (width,) * self.depth
      y = parts.Projector(widths, dtype=self.dtype, name='mlp')(x)
    y = parts.norm(self.dtype, 'norm')(y)
    alpha = self.param('alpha', nn.initializers.zeros, (1,))
    alpha = alpha.reshape((1,) * (x.ndim - 1) + (1,)).astype(x.dtype)
    return (1 - alpha) * x + alpha * y.astype(x.dtype)


class Guide(nn.Module):
  """Puts an instruction into queries.

  Attributes:
    kind: see the module.
    width: D.
    heads: of the attention to words.
    adapt: whether the text is adapted.
    dtype: of the matrix products.
  """

  kind: Kind
  width: int
  heads: int
  adapt: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, query: Array, text: Array | None, *, text_valid: Array | None = None
  ) -> Array:
    """Gives queries.

    Args:
      query: [B, K, D].
      text: [B, E] pooled, or [B, M, E] for 'fine'; None for 'off'.
      text_valid: bool [B, M], of 'fine'.

    Returns:
      [B, K, D].

    Raises:
      UserError: if the kind is unknown, or its text is not given.
    """
    if self.kind == 'off':
      if text is not None:
        raise UserError(
          "the guide 'off' reads no text; leave it out, or take 'direct', "
          "'coarse' or 'fine'"
        )
      return query
    if self.kind not in ('direct', 'coarse', 'fine'):
      raise UserError(
        f"a guide is 'off', 'direct', 'coarse' or 'fine', got {self.kind!r}"
      )
    rank = 3 if self.kind == 'fine' else 2
    shape = arrays.shape_of(text)
    if len(shape) != rank or shape[0] != len(query):
      need = '[B, M, E], the words' if rank == 3 else '[B, E], pooled'
      raise UserError(
        f'the guide {self.kind!r} reads a text of {need}, with '
        f'B={len(query)}, got {shape or text!r}'
      )
    assert text is not None
    self._check_words(text, text_valid)
    text = text[:, None] if rank == 2 else text
    if text.shape[-1] != self.width:
      widths = (self.width,) * 2
      text = parts.Projector(widths, dtype=self.dtype, name='project')(text)
    if self.adapt:
      text = Adapted(dtype=self.dtype, name='adapt')(text)
    if self.kind == 'direct':
      return jnp.broadcast_to(text, query.shape)
    norm = parts.norm(self.dtype, 'norm')
    if self.kind == 'fine':
      attend = parts.Attend(self.heads, dtype=self.dtype, name='attn')
      return norm(query + attend(query, text, text, mask=text_valid))
    widths = (2 * self.width,) * 2
    both = parts.Projector(widths, dtype=self.dtype, name='modulation')(text)
    scale, shift = jnp.split(both, 2, axis=-1)
    return norm(query * (1 + scale) + shift)

  def _check_words(self, text: Array, there: Array | None) -> None:
    """Refuses a mask that is not of the words; outside of `jit`, no words."""
    if there is None:
      return
    if self.kind != 'fine' or arrays.shape_of(there) != text.shape[:2]:
      raise UserError(
        "text_valid is of the words [B, M, E] of the guide 'fine', bool [B, M];"
        f' got {arrays.said(there)} for a text of {text.shape} and the guide '
        f'{self.kind!r}'
      )
    if bad := arrays.rows_that(lambda y: ~y.any(axis=1), there):
      raise UserError(f'text_valid of rows {bad} has no word')


class HIComLocal(nn.Module):
  """One token for each region; the defaults are the released model's.

  Attributes:
    grid: (T, H, W); an image is (1, H, W).
    sizes: of a region.
    width: D.
    out: F, of the language model.
    guide: see the module.
    adapt: what is adapted: 'q', 'k', 'v' and 'g', the text. As in the official
      code queries that are the text ('direct') are not.
    heads: of the attention to words.
    dtype: of the matrix products.
  """

  grid: Grid = (32, 27, 27)
  sizes: Grid = (4, 3, 3)
  width: int = 1152
  out: int = 3584
  guide: Kind = 'direct'
  adapt: str = ''
  heads: int = 9
  dtype: Any = jnp.float32

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
  @inputs.refusing
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
      text: see `Guide`.
      joint: [B, N, D], keys in the space of the texts; x if None.
      text_valid: see `Guide`.
      mask: bool [B, N], tokens that are there; `region_valid` says which
        regions then are.
      logit_scale: float32 [], the logarithm of what products of unit vectors
        are multiplied by (SigLIP's); None is D ** -0.5, of vectors as they are.

    Returns:
      [B, R, F].

    Raises:
      UserError: if x is not the grid, or the text does not fit the guide.
    """
    inputs.check_inputs(x, self.grid, width=self.width, mask=mask)
    if unknown := set(self.adapt) - set('qkvg'):
      raise UserError(
        f"'q', 'k', 'v' and 'g' can be adapted, got {sorted(unknown)}"
      )

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
    query = Guide(
      self.guide,
      self.width,
      self.heads,
      'g' in self.adapt,
      dtype=self.dtype,
      name='guide',
    )(query, text, text_valid=text_valid)
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
    widths = (self.out,) * 2
    return parts.Projector(widths, dtype=self.dtype, name='readout')(y)

  def region_valid(self, mask: Array) -> Array:
    """Regions with a token that is there, bool [B, R] of [B, N]."""
    return mask[:, self.regions].any(axis=2)


class HIComGlobal(nn.Module):
  """Learned queries of a whole video; the sizes are the released model's.

  Attributes:
    queries: K.
    grid: (T, H, W).
    width: D.
    out: F, of the language model.
    guide: see the module.
    adapt: 'g' if the text is adapted.
    heads: of both attentions.
    dtype: of the matrix products.
  """

  queries: int = 32
  grid: Grid = (32, 27, 27)
  width: int = 1152
  out: int = 3584
  guide: Kind = 'coarse'
  adapt: str = ''
  heads: int = 9
  dtype: Any = jnp.float32

  @nn.compact
  @inputs.refusing
  def __call__(
    self,
    x: Array,
    text: Array | None = None,
    *,
    text_valid: Array | None = None,
    mask: Array | None = None,
    logit_scale: Array | None = None,
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D].
      text: see `Guide`.
      text_valid: see `Guide`.
      mask: bool [B, N], tokens that are there.
      logit_scale: see `Attend`.

    Returns:
      [B, K, F].

    Raises:
      UserError: if x is not the grid, or the text does not fit the guide.
    """
    inputs.check_inputs(x, self.grid, width=self.width, mask=mask)
    if set(self.adapt) - {'g'}:
      raise UserError(f"only 'g' can be adapted here, got {self.adapt!r}")
    query = self.param(
      'query', nn.initializers.zeros, (self.queries, self.width)
    )
    query = jnp.broadcast_to(query[None], (len(x), *query.shape)).astype(
      self.dtype
    )
    query = Guide(
      self.guide,
      self.width,
      self.heads,
      'g' in self.adapt,
      dtype=self.dtype,
      name='guide',
    )(query, text, text_valid=text_valid)
    x = x + jnp.asarray(video_codes(self.grid, self.width), x.dtype)[None]
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      query, x, x, mask=mask, logit_scale=logit_scale
    )
    widths = (self.out,) * 2
    return parts.Projector(widths, dtype=self.dtype, name='readout')(
      query + y.astype(query.dtype)
    )


def video_codes(grid: Grid, width: int) -> np.ndarray:
  """Sin-cos codes of time, row and column, added up: float32 [N, D].

  Sines and cosines take turns over the features, and all axes have the same.

  Args:
    grid: (T, H, W).
    width: D.
  """
  rates = 10_000.0 ** -(2 * (np.arange(width) // 2) / width)
  total = np.zeros((*grid, width))
  for axis, length in enumerate(grid):
    angle = np.arange(length)[:, None] * rates
    angle[:, 1::2] += np.pi / 2  # a cosine
    shape = [1, 1, 1, width]
    shape[axis] = length
    total += np.sin(angle).reshape(shape)
  return total.reshape(-1, width).astype(np.float32)


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
