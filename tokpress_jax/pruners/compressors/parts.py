"""What learned compressors share: attention, regions, projectors, tokens.

A compressor stands between a vision tower and a language model and makes few
tokens of a grid of many. Its queries are learned, or are the grid made small;
each attends to all of the grid, or to a region of it.

Dimension letters: B batch, N tokens of a grid, K new tokens, R regions, S
tokens of a region, T queries, D features, A heads, E head features, P axes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.nn import LayerNorm, l2_normalize
from tokpress_jax.nn.attention import dot_product_attention
from tokpress_jax.nn.positions import grid_positions, sincos
from tokpress_jax.nn.products import Dense
from tokpress_jax.nn.resize import resize
from tokpress_jax.types import VISION, Array, Tokens

INIT = nn.initializers.truncated_normal(0.02)


def dense(features: int, dtype: Any, name: str, *, bias: bool = True) -> Any:
  """A linear layer that starts as the official ones do."""
  return Dense(
    features, use_bias=bias, dtype=dtype, name=name, kernel_init=INIT
  )


def norm(dtype: Any, name: str) -> LayerNorm:
  """A layer norm with the official epsilon."""
  return LayerNorm(eps=1e-6, dtype=dtype, name=name)


class Attend(nn.Module):
  """Multi-head attention whose queries, keys and values have three sources.

  Attributes:
    heads: A.
    dtype: of the matrix products.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    query: Array,
    key: Array,
    value: Array,
    *,
    mask: Array | None = None,
    regions: np.ndarray | None = None,
    logit_scale: Array | None = None,
  ) -> Array:
    """Attends.

    Args:
      query: [B, T, D], or [1, T, D] for all rows; with regions T is R.
      key: [B, N, D], or [1, N, D] for all rows.
      value: [B, N, D].
      mask: bool [B, N], what may be attended to; all if None.
      regions: int [R, S], the tokens that each query may attend to.
      logit_scale: float32 [], for queries and keys of length 1 (over all heads)
        whose products are multiplied by its exponential, as in CLIP.

    Returns:
      [B, T, D].

    Raises:
      UserError: if the heads do not divide D.
    """
    width, batch = query.shape[-1], value.shape[0]
    if width % self.heads:
      raise UserError(
        f'{self.heads} heads do not divide {width} features; change one'
      )

    unit = logit_scale is not None

    def heads(x: Array, name: str) -> Array:
      x = dense(width, self.dtype, name)(x)
      x = l2_normalize(x) if unit and name != 'v' else x
      x = x.reshape(*x.shape[:2], self.heads, -1)
      x = jnp.broadcast_to(x, (batch, *x.shape[1:]))
      return x.swapaxes(1, 2)  # [B, A, T or N, E]

    q, k, v = heads(query, 'q'), heads(key, 'k'), heads(value, 'v')
    scale = None if logit_scale is None else 1.0
    if logit_scale is not None:
      q = q * jnp.exp(logit_scale).astype(q.dtype)
    if regions is None:
      rows = None if mask is None else mask[:, None, None]
      out = dot_product_attention(q, k, v, mask=rows, scale=scale)
    else:
      out = attend_in_regions(q, k, v, regions=regions, mask=mask, scale=scale)
    out = out.swapaxes(1, 2).reshape(batch, -1, width)
    return dense(width, self.dtype, 'out')(out)


def attend_in_regions(
  q: Array,
  k: Array,
  v: Array,
  *,
  regions: np.ndarray,
  mask: Array | None = None,
  scale: float | None = None,
) -> Array:
  """Attention of one query for each region to the region's tokens.

  Args:
    q: [B, A, R, E].
    k: [B, A, N, E].
    v: [B, A, N, F].
    regions: int [R, S].
    mask: bool [B, N], what may be attended to; a query without any gives 0.
    scale: of the logits; E ** -0.5 if None.

  Returns:
    [B, A, R, F] in v's dtype.
  """
  batch, number, _, _ = q.shape
  rows = lambda x: x.swapaxes(1, 2).reshape(batch * len(regions), number, 1, -1)

  def split(x: Array) -> Array:
    """[B, A, N, E] to [B R, A, S, E]."""
    x = x[:, :, regions]  # [B, A, R, S, E]
    return x.swapaxes(1, 2).reshape(-1, number, *x.shape[3:])

  if mask is not None:
    mask = mask[:, regions].reshape(-1, 1, 1, regions.shape[1])
  out = dot_product_attention(
    rows(q),
    split(k),
    split(v),
    mask=mask,
    scale=scale,
  )
  return out.reshape(batch, len(regions), number, -1).swapaxes(1, 2)


def spans(length: int, size: int) -> np.ndarray:
  """Where the parts of an axis lie, the fewest that cover it.

  If `size` divides the length they tile it. If not, as many parts as needed
  begin one token early, the last ones (HICom's balanced groups); where one
  token is not enough, of 5 tokens in parts of 4 say, the official code fails,
  and the parts are spread evenly here. An axis that is shorter is one part.

  Args:
    length: of the axis.
    size: of a part.

  Returns:
    int [parts, size].
  """
  size = min(size, length)
  number = -(-length // size)
  missing = number * size - length
  if missing < number:
    start = np.arange(number) * size
    start -= np.maximum(np.arange(number) - (number - missing) + 1, 0)
  else:
    start = np.arange(number) * (length - size) // max(number - 1, 1)
  return start[:, None] + np.arange(size)


def grid_regions(grid: tuple[int, ...], sizes: tuple[int, ...]) -> np.ndarray:
  """The tokens of each region of a grid in raster order: int [R, S].

  Args:
    grid: its sizes.
    sizes: of a region; see `spans` where they do not divide the grid.
  """
  index = np.arange(math.prod(grid)).reshape(grid)
  each = [spans(n, size) for n, size in zip(grid, sizes, strict=True)]
  for axis, at in enumerate(each):  # [..., parts, size, ...] in place
    index = np.take(index, at, axis=2 * axis)
  axes = (*range(0, index.ndim, 2), *range(1, index.ndim, 2))
  number = math.prod(len(at) for at in each)
  return index.transpose(axes).reshape(number, -1)


def codes(grid: tuple[int, int], width: int) -> Array:
  """Sin-cos codes of a grid, columns first: float32 [N, D].

  The official code keeps them in half precision, and so do released weights;
  they are rounded to it here.
  """
  at = grid_positions(*grid)[:, ::-1]
  table = sincos(at.astype(np.float32), width)
  return table.astype(jnp.float16).astype(jnp.float32)


def resized_codes(
  table: Array, old: tuple[int, int], new: tuple[int, int]
) -> Array:
  """Codes [N, D] of one grid for another, bicubic: [M, D]."""
  width = table.shape[-1]
  table = resize(table.reshape(*old, width), new, method='bicubic')
  return table.reshape(-1, width)


class Projector(nn.Module):
  """Linear layers with exact GELUs between.

  Attributes:
    widths: features after each layer.
    dtype: of the matrix products.
    rank: of each layer's matrix, which is then a product of two, as
      `factor_projector` makes them; None for any.
  """

  widths: tuple[int, ...]
  dtype: Any = jnp.float32
  rank: int | None = None

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps [..., D] to [..., widths[-1]]."""
    for i, width in enumerate(self.widths):
      x = nn.gelu(x, approximate=False) if i else x
      name = f'fc{i + 1}'
      if self.rank is not None:
        x = dense(self.rank, self.dtype, f'{name}_in', bias=False)(x)
      x = dense(width, self.dtype, name)(x)
    return x


def factor_projector(variables: Any, *, rank: int) -> Any:
  """Weights of a `Projector` of low rank that is nearest to another one.

  Args:
    variables: of a `Projector` without rank, not traced.
    rank: at most the features of each layer.

  Returns:
    Variables of one with that rank and the same widths: each matrix is its
    truncated singular value decomposition, the nearest by squared error.

  Raises:
    UserError: if a layer has fewer features, or these are no such variables.
  """
  layers = variables.get('params', {}) if isinstance(variables, Mapping) else {}
  if not layers or any(
    not isinstance(layer, Mapping) or set(layer) != {'kernel', 'bias'}
    for layer in layers.values()
  ):
    raise UserError(
      "give the variables of a Projector without rank, {'params': {'fc1': "
      "{'kernel': ..., 'bias': ...}, ...}}"
    )
  factored = {}
  for name, layer in layers.items():
    kernel = np.asarray(layer['kernel'], np.float32)
    if not isinstance(rank, int) or not 1 <= rank <= min(kernel.shape):
      raise UserError(
        f'rank {rank} is outside 1 to {min(kernel.shape)}, the features of '
        f'{name}'
      )
    left, size, right = np.linalg.svd(kernel, full_matrices=False)
    root = np.sqrt(size[:rank])
    factored[f'{name}_in'] = {'kernel': jnp.asarray(left[:, :rank] * root)}
    second = jnp.asarray(root[:, None] * right[:rank])
    factored[name] = {'kernel': second, 'bias': layer['bias']}
  return {'params': factored}


def project(x: Array, out: int | None, dtype: Any) -> Array:
  """Two linear layers called 'mlp' to F features; x itself if `out` is None."""
  if out is None:
    return x
  return Projector((out,) * 2, dtype=dtype, name='mlp')(x)


def as_tokens(
  features: Array,
  *,
  grid: tuple[int, ...],
  new_grid: tuple[int, ...] | None = None,
  valid: Array | None = None,
) -> Tokens:
  """New tokens as `Tokens`, for a language model or a pruner behind.

  Args:
    features: [B, K, D].
    grid: of the tokens that they were made of.
    new_grid: of the new tokens, if they have places: their positions are then
      the middles of what they were made of, in the coordinates of `grid`. If
      None they are numbered.
    valid: bool [B] (crops that are there) or [B, K]; all if None.

  Returns:
    Tokens, of which each stands for N / K others.

  Raises:
    UserError: if the new grid has not K places, or a shape does not fit.
  """
  if features.ndim != 3:
    raise UserError(f'new tokens are [B, K, D], got {features.shape}')
  batch, number, _ = features.shape
  if valid is not None and valid.shape not in ((batch,), (batch, number)):
    raise UserError(
      f'valid must be bool [{batch}] or [{batch}, {number}], got {valid.shape}'
    )
  if new_grid is None:
    at: Any = np.arange(number, dtype=np.float32)[:, None]
  else:
    if math.prod(new_grid) != number:
      raise UserError(
        f'a grid of {new_grid} has {math.prod(new_grid)} places, and {number} '
        'tokens were given'
      )
    ratio = np.divide(grid, new_grid, dtype=np.float32)
    at = np.asarray((grid_positions(*new_grid) + 0.5) * ratio - 0.5)
  if valid is not None and valid.ndim == 1:
    valid = jnp.broadcast_to(valid[:, None], (batch, number))
  tokens = Tokens.create(
    features,
    positions=jnp.broadcast_to(jnp.asarray(at)[None], (batch, *at.shape)),
    valid=valid,
    kind=jnp.full((batch, number), VISION, jnp.int8),
  )
  total = math.prod(grid)
  there = tokens.valid.any(axis=1)
  count = jnp.where(there, total, 0).astype(jnp.int32)
  return dataclasses.replace(
    tokens,
    mass=jnp.where(tokens.valid, total / number, 0),
    source_count=count,
    source_slots=total,
  )


def split_grid(x: Array, grid: tuple[int, ...]) -> Array:
  """[B, N, D] as [B, *grid, D]."""
  return x.reshape(x.shape[0], *grid, x.shape[-1])
