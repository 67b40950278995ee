"""Semantic tokens: a few pooled tokens that attend to the image (STViT-R).

Chang et al., "Making vision transformers efficient from a token sparsification
view" (2023, arXiv:2303.08685). The tokens of a window are pooled to a few, and
two blocks let these draw from the image what they stand for; the layers after
work on them alone. STViT-R lets the image tokens look at them in the end, so
that a dense task has its grid back.

The official code is of STViT-R in the third stage of a Swin transformer
(14 x 14 tokens, four windows); there is none of plain ViTs. Beyond it: any grid
and window, whose overlapping regions are spread evenly over the grid; keys and
values are projected once for the grid, not once for each region; stochastic
depth drops a branch for a whole image everywhere.

Dimension letters: B batch, H rows and W columns of a grid of image tokens, r
rows and c columns of windows, p tokens of a window, s semantic tokens of a
window, q tokens of a region, h rows and w columns of semantic tokens, T
queries, M keys, D features, A heads, E head features.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.nn import BlockConfig, CrossAttention, LayerNorm, Mlp
from tokpress_jax.nn.cross import Memory
from tokpress_jax.pruners.window_grids import (
  Pair,
  from_cells,
  pool_windows,
  regions,
  relative_index,
  to_cells,
)
from tokpress_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticConfig:
  """Semantic tokens of a grid, and the blocks around them.

  The defaults are the released models': with width 384 and 12 heads STViT-R's
  Swin-S, with 512 and 16 its Swin-B.

  Attributes:
    width: D.
    heads: A.
    mlp_ratio: hidden features of the MLPs over D.
    norm_eps: of the layer norms.
    grid: (H, W).
    window: rows and columns of image tokens that are pooled together.
    samples: rows and columns of the semantic tokens of a window.
    reach: rows and columns of the region around a window that its semantic
      tokens attend to first, at most the grid.
    residual: whether pooled tokens are added to what the first block's
      attention gives, as in the paper.
    conv_position: whether a depth-wise convolution of the pooled tokens of a
      window is added to them.
    global_tokens: whether learned tokens are added to the second block's
      queries.
    relative: whether attention among semantic tokens has biases by relative
      position.
    layer_scale: of the branches at the start.
  """

  width: int = 384
  heads: int = 12
  mlp_ratio: float = 4.0
  norm_eps: float = 1e-5
  grid: Pair = (14, 14)
  window: Pair = (7, 7)
  samples: Pair = (3, 3)
  reach: Pair = (10, 10)
  residual: bool = False
  conv_position: bool = False
  global_tokens: bool = False
  relative: bool = False
  layer_scale: float = 1e-5

  def __post_init__(self):
    sizes = (self.grid, self.window, self.samples, self.reach)
    if min(n for size in sizes for n in size) < 1:
      raise UserError(
        f'grid={self.grid}, window={self.window}, samples={self.samples} and '
        f'reach={self.reach} must be 1 or more'
      )
    each = list(zip(*sizes, strict=True))
    if any(grid % window for grid, window, _, _ in each):
      raise UserError(
        f'windows of {self.window} do not tile a grid of {self.grid}; choose a '
        'divisor of each side'
      )
    if any(samples > window for _, window, samples, _ in each):
      raise UserError(
        f'a window of {self.window} tokens is pooled to fewer, got '
        f'samples={self.samples}'
      )
    if any(reach < window for _, window, _, reach in each):
      raise UserError(
        f'reach={self.reach} leaves out tokens of the windows {self.window}; '
        'make it as large'
      )

  @property
  def windows(self) -> Pair:
    """(r, c)."""
    return (
      self.grid[0] // self.window[0],
      self.grid[1] // self.window[1],
    )

  @property
  def tokens(self) -> Pair:
    """(h, w)."""
    rows, columns = self.windows
    return rows * self.samples[0], columns * self.samples[1]

  @property
  def block(self) -> BlockConfig:
    """What the blocks' parts take."""
    return BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      norm_eps=self.norm_eps,
    )


class SemanticBlock(nn.Module):
  """Attention to a row of tokens (or among its own), then an MLP.

  Attributes:
    config: its sizes.
    layer_scale: of the branches at the start; None is branches as they are.
    relative: rows and columns of the grid of tokens, for biases by relative
      position; None for none.
    drop_path: rate at which a branch is dropped for an image in training.
    dtype: of the matrix products.
  """

  config: SemanticConfig
  layer_scale: float | None = None
  relative: Pair | None = None
  drop_path: float = 0.0
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config.block
    norm = lambda: LayerNorm(eps=c.norm_eps, dtype=self.dtype)
    self.norm1, self.norm2 = norm(), norm()
    self.attn = CrossAttention(c.attention, dtype=self.dtype)
    self.mlp = Mlp(c, dtype=self.dtype)
    if self.layer_scale is not None:
      init = nn.initializers.constant(self.layer_scale)
      self.scale1 = self.param('scale1', init, (c.width,))
      self.scale2 = self.param('scale2', init, (c.width,))
    if self.relative is not None:
      offsets = (2 * self.relative[0] - 1) * (2 * self.relative[1] - 1)
      self.bias_table = self.param(
        'bias_table',
        nn.initializers.truncated_normal(0.02),
        (offsets, c.heads),
      )

  def memory(self, other: Array) -> Memory:
    """Keys and values [B ..., A, M, E] of [B, ..., M, D]."""
    return self.attn.memory(_rows(self.norm1(other)))

  def attend(self, x: Array, memory: Memory) -> Array:
    """What attention adds to [B, ..., T, D], each row to its own memory."""
    bias = None
    if self.relative is not None:
      table = self.bias_table[relative_index(self.relative)]  # [T, T, A]
      bias = jnp.moveaxis(table, 2, 0)[None]
    y = self.attn(_rows(self.norm1(x)), memory, None, bias=bias)
    y = y.reshape(x.shape).astype(x.dtype)
    return y if self.layer_scale is None else y * _wide(self.scale1, y)

  def feed(self, x: Array, *, deterministic: bool = True) -> Array:
    """Adds the MLP's branch to [B, ..., D]."""
    y = self.mlp(self.norm2(x)).astype(x.dtype)
    if self.layer_scale is not None:
      y = y * _wide(self.scale2, y)
    return x + self.drop(y, deterministic=deterministic)

  def drop(self, y: Array, *, deterministic: bool = True) -> Array:
    """Drops a branch [B, ...] of some images, with an rng 'dropout'."""
    if deterministic or not self.drop_path:
      return y
    keep = 1 - self.drop_path
    shape = (y.shape[0], *(1,) * (y.ndim - 1))
    kept = jax.random.bernoulli(self.make_rng('dropout'), keep, shape)
    return jnp.where(kept, y / keep, 0)

  def __call__(
    self, x: Array, other: Array | None = None, *, deterministic: bool = True
  ) -> Array:
    """Runs the block.

    Args:
      x: [B, ..., T, D].
      other: [B, ..., M, D], what is attended to; x if None.
      deterministic: no dropping if True; else an rng 'dropout' is needed.

    Returns:
      As x.
    """
    y = self.attend(x, self.memory(x if other is None else other))
    x = x + self.drop(y, deterministic=deterministic)
    return self.feed(x, deterministic=deterministic)


class SemanticTokens(nn.Module):
  """Semantic tokens of a grid of image tokens, by two blocks.

  Attributes:
    config: see there.
    drop_path: rates of the two blocks.
    dtype: of the matrix products.
  """

  config: SemanticConfig
  drop_path: tuple[float, float] = (0.0, 0.0)
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.first, self.second = (
      SemanticBlock(c, c.layer_scale, drop_path=rate, dtype=self.dtype)
      for rate in self.drop_path
    )
    if c.conv_position:
      self.conv = nn.Conv(
        c.width, (3, 3), feature_group_count=c.width, dtype=self.dtype
      )
    if c.global_tokens:
      self.global_tokens = self.param(
        'global_tokens',
        nn.initializers.truncated_normal(0.02),
        (np.prod(c.tokens), c.width),
      )

  def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
    """Makes semantic tokens.

    Args:
      x: [B, H, W, D].
      deterministic: see `SemanticBlock`.

    Returns:
      [B, h, w, D].

    Raises:
      UserError: if the grid is another than the config's.
    """
    c = self.config
    _check_grid(x, c)
    batch = x.shape[0]
    tokens = self.pooled(x, deterministic=deterministic)
    tokens = tokens.reshape(batch, -1, c.width)
    both = jnp.concatenate([tokens, x.reshape(batch, -1, c.width)], axis=1)
    if c.global_tokens:
      tokens = tokens + self.global_tokens.astype(x.dtype)[None]
    tokens = self.second(tokens, both, deterministic=deterministic)
    return tokens.reshape(batch, *c.tokens, c.width)

  def pooled(self, x: Array, *, deterministic: bool = True) -> Array:
    """The first block: [B, H, W, D] to [B, h, w, D]."""
    c, block, batch = self.config, self.first, x.shape[0]
    tokens = pool_windows(x, window=c.window, samples=c.samples)
    cells = tokens.shape  # [B, r, c, s, D]
    if c.conv_position:
      added = self.conv(tokens.reshape(-1, *c.samples, c.width))
      tokens = tokens + added.reshape(cells).astype(x.dtype)
    tokens = tokens.reshape(batch, -1, *cells[3:])
    # As in the official code the queries are among the keys.
    own = block.memory(tokens)
    image = block.memory(x.reshape(batch, -1, c.width))
    join = lambda a, b: jnp.concatenate([a, self._around(b)], axis=2)
    y = block.attend(tokens, jax.tree.map(join, own, image))
    if c.residual:
      y = tokens + block.drop(y, deterministic=deterministic)
    y = from_cells(y.reshape(cells), c.samples, c.tokens)
    return block.feed(y, deterministic=deterministic)

  def _around(self, x: Array) -> Array:
    """Keys or values of the regions: [B, A, H W, E] to [B r c, A, q, E]."""
    c = self.config
    batch, heads, _, width = x.shape
    x = x.reshape(-1, *c.grid, width)
    x = regions(x, windows=c.windows, reach=c.reach)
    x = x.reshape(batch, heads, -1, x.shape[3], width).swapaxes(1, 2)
    return x.reshape(-1, *x.shape[2:])


class SemanticGroup(nn.Module):
  """Six blocks of STViT-R's third stage, which has three such groups.

  Attention in windows of image tokens, semantic tokens, attention among those
  of a window and among all, and of the image tokens to them.

  Attributes:
    config: see there.
    drop_path: rates of the first and the last block; linear between.
    dtype: of the matrix products.
  """

  config: SemanticConfig
  drop_path: tuple[float, float] = (0.0, 0.0)
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    rates = [float(rate) for rate in np.linspace(*self.drop_path, 6)]

    def block(at, relative=None):
      return SemanticBlock(
        c, c.layer_scale, relative, drop_path=rates[at], dtype=self.dtype
      )

    self.image = SemanticBlock(
      c, relative=c.window, drop_path=rates[0], dtype=self.dtype
    )
    self.generate = SemanticTokens(
      c, drop_path=(rates[1], rates[2]), dtype=self.dtype
    )
    self.local = block(3, c.samples if c.relative else None)
    self.all = block(4, c.tokens if c.relative else None)
    self.recovery = block(5)

  def __call__(self, x: Array, *, deterministic: bool = True) -> Array:
    """Maps image tokens [B, H, W, D] to as many.

    Args:
      x: [B, H, W, D].
      deterministic: see `SemanticBlock`.

    Returns:
      [B, H, W, D].

    Raises:
      UserError: if the grid is another than the config's.
    """
    c = self.config
    _check_grid(x, c)
    x = _in_windows(self.image, x, c.window, deterministic)
    tokens = self.semantic(x, deterministic=deterministic)
    return self.recover(x, tokens, deterministic=deterministic)

  def semantic(self, x: Array, *, deterministic: bool = True) -> Array:
    """Semantic tokens [B, h, w, D] of [B, H, W, D] after the first block."""
    c = self.config
    tokens = self.generate(x, deterministic=deterministic)
    tokens = _in_windows(self.local, tokens, c.samples, deterministic)
    return _in_windows(self.all, tokens, c.tokens, deterministic)

  def recover(
    self, x: Array, tokens: Array, *, deterministic: bool = True
  ) -> Array:
    """Image tokens [B, H, W, D] look at semantic tokens [B, h, w, D]."""
    flat = lambda a: a.reshape(a.shape[0], -1, a.shape[-1])
    y = self.recovery(flat(x), flat(tokens), deterministic=deterministic)
    return y.reshape(x.shape)


def _check_grid(x: Array, config: SemanticConfig) -> None:
  """Refuses another grid than the config's."""
  if x.ndim != 4 or x.shape[1:] != (*config.grid, config.width):
    raise UserError(
      f'expected image tokens of [B, {config.grid[0]}, {config.grid[1]}, '
      f'{config.width}], got {x.shape}; set grid and width in the config'
    )


def _in_windows(
  block: SemanticBlock, x: Array, size: Pair, deterministic: bool
) -> Array:
  """Runs a block on [B, H, W, D], attention in windows of `size` tokens."""
  cells = to_cells(x, size)
  rows = cells.reshape(x.shape[0], -1, *cells.shape[3:])
  rows = block(rows, deterministic=deterministic)
  return from_cells(rows.reshape(cells.shape), size, (x.shape[1], x.shape[2]))


def _rows(x: Array) -> Array:
  """[B, ..., T, D] as rows of tokens, [B ..., T, D]."""
  return x.reshape(-1, *x.shape[-2:])


def _wide(scale: Array, like: Array) -> Array:
  """[D] as [1, ..., D], in the dtype of what it multiplies."""
  return scale.reshape((1,) * (like.ndim - 1) + (-1,)).astype(like.dtype)
