"""Transformer blocks that also attend to something else, such as a text.

Vaswani et al., "Attention Is All You Need" (arXiv 1706.03762), section 3.2.3:
between a block's self-attention and its MLP, the tokens attend to a row that
stays as it is. Its keys and values do not depend on the tokens: `memory` gives
them once for all layers, and sampling does not make them anew at every step.

Dimension letters: B batch, T tokens, M of what is attended to, D features, A
heads, E head features, L layers.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.nn import attention as attention_lib
from tokpress_jax.nn import norms, products
from tokpress_jax.nn.block import Block, BlockConfig
from tokpress_jax.nn.stack import StackConfig

Array = jax.Array
Memory = tuple[Array, Array]


class CrossAttention(nn.Module):
  """Queries of the tokens, keys and values of something else.

  Attributes:
    config: as of self-attention; 'l2' is no norm of queries and keys here.
    dtype: of the matmuls.
  """

  config: attention_lib.AttentionConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    inner = c.heads * c.features
    dense = lambda n, bias: products.Dense(
      n,
      use_bias=bias,
      dtype=self.dtype,
      kernel_init=nn.initializers.truncated_normal(c.width**-0.5),
    )
    self.query = dense(inner, c.bias == 'all')
    self.keys = dense(2 * inner, c.bias == 'all')
    self.proj = dense(c.width, c.bias != 'nowhere')
    if c.qk_norm == 'l2':
      raise ValueError("cross-attention has no qk_norm='l2'")
    if c.qk_norm:
      plain = c.qk_norm == 'standard'
      norm = lambda: norms.make_norm(
        'layer' if plain else str(c.qk_norm),
        eps=1e-5 if plain else 1e-6,
        affine=not plain,
        dtype=self.dtype,
      )
      self.q_norm, self.k_norm = norm(), norm()

  def memory(self, other: Array) -> Memory:
    """Keys and values [B, A, M, E] of what is attended to, [B, M, D]."""
    c = self.config
    batch, length, _ = other.shape
    both = self.keys(other).reshape(batch, length, 2, c.heads, c.features)
    k, v = jnp.moveaxis(both, (2, 3), (0, 2))
    return (self.k_norm(k) if c.qk_norm else k), v

  def __call__(
    self,
    x: Array,
    memory: Memory,
    mask: Array | None,
    *,
    bias: Array | None = None,
  ) -> Array:
    """Attends.

    Args:
      x: [B, T, D].
      memory: of `memory`.
      mask: bool [B, M], what may be attended to; all if None.
      bias: see `dot_product_attention`.

    Returns:
      [B, T, D].
    """
    c = self.config
    batch, length, _ = x.shape
    q = self.query(x).reshape(batch, length, c.heads, c.features)
    q = jnp.swapaxes(q, 1, 2)
    if c.qk_norm:
      q = self.q_norm(q)
    scale = 8 / c.features if c.scale == 'mup' else c.features**-0.5
    heads = attention_lib.dot_product_attention(
      q,
      *memory,
      mask=None if mask is None else mask[:, None, None],
      bias=bias,
      scale=scale,
    )
    return self.proj(jnp.swapaxes(heads, 1, 2).reshape(batch, length, -1))


class CrossBlock(nn.Module):
  """Self-attention, cross-attention, MLP; norms before each.

  Attributes:
    config: of the block around the cross-attention.
    dtype: of the matmuls.
  """

  config: BlockConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.block = Block(c, dtype=self.dtype)
    self.cross = CrossAttention(c.attention, dtype=self.dtype)
    self.norm = norms.make_norm(
      c.norm, eps=c.norm_eps, affine=c.norm_affine, dtype=self.dtype
    )

  def memory(self, other: Array) -> Memory:
    """See `CrossAttention.memory`."""
    return self.cross.memory(other)

  def __call__(
    self,
    x: Array,
    memory: Memory,
    *,
    memory_mask: Array | None = None,
    cache: attention_lib.Cache | None = None,
    **kwargs: Any,
  ) -> tuple[Array, attention_lib.Cache | None]:
    """Runs the block.

    Args:
      x: [B, T, D].
      memory: of `memory`.
      memory_mask: see `CrossAttention`.
      cache: of the self-attention.
      **kwargs: of `Attention`, for the tokens.

    Returns:
      [B, T, D] and the cache.
    """
    x, cache = self.block.attend(x, {}, cache=cache, **kwargs)
    x = x + self.cross(self.norm(x), memory, memory_mask)
    return self.block.feed(x, {}), cache

  def start(self, x: Array) -> Array:
    """Uses every part once, for the initialisation; [B, T, D] to as much."""
    return self(x, self.memory(x))[0]


class CrossStack(nn.Module):
  """L cross blocks with parameters stacked under one name, `layers`.

  Attributes:
    config: the layers; without modulation and dropout.
    dtype: of the matmuls.
  """

  config: StackConfig
  dtype: Any = jnp.float32

  def _block(self) -> CrossBlock:
    return CrossBlock(self.config.block, dtype=self.dtype, parent=None)

  def setup(self):
    """Makes the parameters."""
    if not self.has_variable('params', 'layers'):
      self.param('layers', self._init)

  def _init(self, rng: Array) -> Any:
    x = jnp.zeros((1, 1, self.config.block.width), self.dtype)
    one = lambda key: self._block().init(key, x, method='start')
    return jax.vmap(one)(jax.random.split(rng, self.config.depth))['params']

  def _layers(self) -> Any:
    """The stacked parameters [L, ...] (or what `unstack` made of them)."""
    return self.get_variable('params', 'layers')

  def memory(self, other: Array) -> Any:
    """Keys and values of every layer: [L, B, A, M, E], or a tuple of layers.

    Args:
      other: what is attended to, [B, M, D].
    """
    one = lambda params: self._block().apply(
      {'params': params}, other, method='memory'
    )
    layers = self._layers()
    if isinstance(layers, list | tuple):
      return tuple(map(one, layers))
    return jax.vmap(one)(layers)

  def empty_cache(self, batch: int, capacity: int) -> Any:
    """Makes the cache that `__call__` takes; see `Stack.empty_cache`."""
    attention = self.config.block.attention
    make = lambda layers: attention_lib.Cache.empty(
      batch,
      attention.heads,
      capacity,
      attention.features,
      layers=layers,
      dtype=self.dtype,
    )
    if isinstance(self._layers(), list | tuple):
      return tuple(make(None) for _ in range(self.config.depth))
    return make(self.config.depth)

  def __call__(
    self, x: Array, memory: Any, *, cache: Any = None, **kwargs: Any
  ) -> tuple[Array, Any]:
    """Runs the layers.

    Args:
      x: [B, T, D].
      memory: of `memory`.
      cache: of the whole stack.
      **kwargs: memory_mask, and mask, bias, rotation, start, visible of
        `Attention`.

    Returns:
      [B, T, D] and the cache (None if none was given).
    """

    def run(x: Array, params: Any, read: Memory, layer_cache: Any) -> Any:
      return self._block().apply(
        {'params': params}, x, read, cache=layer_cache, **kwargs
      )

    if self.config.remat:
      run = jax.checkpoint(run)
    layers = self._layers()
    if isinstance(layers, list | tuple):
      caches = cache or (None,) * len(layers)
      new = []
      for each in zip(layers, memory, caches, strict=True):
        x, after = run(x, *each)
        new.append(after)
      return x, None if cache is None else tuple(new)
    return jax.lax.scan(
      lambda x, layer: run(x, *layer),
      x,
      (layers, memory, cache),
      unroll=self.config.unroll,
    )
