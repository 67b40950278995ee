"""Attention: one function, its masks, its caches, and the module around it.

Dimension letters: B batch, A heads, T queries, S keys, E head features, D model
features, L layers.

Heads stand before length ([B, A, T, E]): the two products are then plain
batched matmuls, about three times faster on a CPU than `[B, T, A, E]` einsums.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.nn import norms, products
from tokpress_jax.nn import positions as positions_lib

Array = jax.Array

Bias = Literal['all', 'qv', 'none', 'nowhere']
QKNorm = Literal['l2', 'layer', 'rms', 'standard']
Scale = Literal['root', 'mup']
Implementation = Literal['xla', 'cudnn']

_CACHE = 2**21  # bytes of logits that a CPU's caches hold


def dot_product_attention(
  q: Array,
  k: Array,
  v: Array,
  *,
  mask: Array | None = None,
  bias: Array | None = None,
  scale: float | None = None,
  implementation: Implementation = 'xla',
) -> Array:
  """Scaled dot-product attention with a float32 softmax.

  Args:
    q: [B, A, T, E].
    k: [B, A, S, E].
    v: [B, A, S, E].
    mask: bool, broadcastable to [B, A, T, S]; True may be attended to. A query
      that may attend to nothing gives 0.
    bias: float, broadcastable to [B, A, T, S], added to the logits (the log of
      the tokens' sizes after merging, say).
    scale: of the logits; E ** -0.5 if not given.
    implementation: 'xla', or 'cudnn' for cuDNN's flash attention on a GPU
      (bfloat16 or float16 only).

  Returns:
    [B, A, T, E] in v's dtype.
  """
  chex.assert_rank((q, k, v), 4)
  chex.assert_equal_shape_prefix((k, v), 3)
  if scale is None:
    scale = q.shape[-1] ** -0.5
  mask, bias = _four_axes(mask), _four_axes(bias)
  if implementation == 'cudnn':
    swap = lambda x: jnp.swapaxes(x, 1, 2)
    out = jax.nn.dot_product_attention(
      swap(q),
      swap(k),
      swap(v),
      bias=_one_bias(q, k, mask, bias),
      scale=scale,
      implementation='cudnn',
    )
    out = swap(out)
    return out if mask is None else jnp.where(mask.any(-1)[..., None], out, 0)
  whole = functools.partial(_attend, scale=scale)
  parts = _parts(q.shape, k.shape[2])
  if parts == 1:
    return whole(q, k, v, mask, bias)
  return jax.lax.platform_dependent(
    q,
    k,
    v,
    mask,
    bias,
    cpu=functools.partial(attend_in_parts, scale=scale, parts=parts),
    default=whole,
  )


def _one_bias(
  q: Array, k: Array, mask: Array | None, bias: Array | None
) -> Array | None:
  """Mask and bias in the one form that cuDNN takes: all of [T, S] written out.

  Args:
    q: [B, A, T, E].
    k: [B, A, S, E].
    mask: bool [B or 1, A or 1, T or 1, S or 1], or None.
    bias: as mask, float.

  Returns:
    [B or 1, A or 1, T, S] in q's dtype; None for neither.
  """
  if mask is None and bias is None:
    return None
  total = jnp.zeros((1, 1, 1, 1), q.dtype) if bias is None else bias
  if mask is not None:
    least = 0.7 * jnp.finfo(q.dtype).min  # so that a sum does not overflow
    total = jnp.where(mask, total, least)
  shape = (*total.shape[:2], q.shape[2], k.shape[2])
  return jnp.broadcast_to(total, shape).astype(q.dtype)


def _attend(
  q: Array,
  k: Array,
  v: Array,
  mask: Array | None,
  bias: Array | None,
  *,
  scale: float,
) -> Array:
  """See `dot_product_attention`; with any number of leading axes."""
  logits = jnp.matmul(
    q, jnp.swapaxes(k, -1, -2), preferred_element_type=jnp.float32
  )
  logits = logits * scale
  if bias is not None:
    logits = logits + bias.astype(jnp.float32)
  if mask is not None:
    logits = jnp.where(mask, logits, -jnp.inf)
  top = jnp.max(logits, axis=-1, keepdims=True)
  top = jnp.where(jnp.isfinite(top), top, 0)  # rows without any key
  weights = jnp.exp(logits - jax.lax.stop_gradient(top))
  total = jnp.sum(weights, axis=-1, keepdims=True)
  weights = weights / jnp.where(total == 0, 1, total)
  return jnp.matmul(weights.astype(v.dtype), v)


def _parts(shape: tuple[int, ...], keys: int) -> int:
  """In how many parts a CPU attends, so that a part's logits stay in cache.

  Over several devices the batch may be spread, and a loop over it would gather
  it: then there is one part.
  """
  batch, heads, queries, _ = shape
  rows = batch * heads
  if jax.device_count() > 1:
    return 1
  fitting = max(_CACHE // (4 * queries * keys), 1)
  return min(
    n for n in range(1, rows + 1) if not rows % n and rows <= n * fitting
  )


def attend_in_parts(
  q: Array,
  k: Array,
  v: Array,
  mask: Array | None,
  bias: Array | None,
  *,
  scale: float,
  parts: int,
) -> Array:
  """`dot_product_attention` in a loop over a few heads at a time.

  The logits of all heads at once are larger than a CPU's caches, and every pass
  of the softmax reads them from memory: in parts of 2 MiB it takes 0.4 x the
  time at 289 tokens and 8 images of 16 heads (2 cores).

  Args:
    q: [B, A, T, E].
    k: [B, A, S, E].
    v: [B, A, S, E].
    mask: bool [B or 1, A or 1, T or 1, S], or None.
    bias: as mask, float.
    scale: of the logits.
    parts: a divisor of B A.

  Returns:
    [B, A, T, E].
  """
  heads = q.shape[:2]
  # What all heads share is not copied for each.
  shared = lambda x: x is not None and x.shape[:2] == (1, 1)

  def split(x: Array | None) -> Array | None:
    """[B, A, ...] to [parts, B A / parts, ...]."""
    if x is None or shared(x):
      return None
    x = jnp.broadcast_to(x, (*heads, *x.shape[2:]))
    return x.reshape(parts, -1, *x.shape[2:])

  def one(part: tuple[Any, ...]) -> Array:
    q, k, v, own_mask, own_bias = part
    return _attend(
      q,
      k,
      v,
      mask[0] if shared(mask) else own_mask,  # type: ignore[index]
      bias[0] if shared(bias) else own_bias,  # type: ignore[index]
      scale=scale,
    )

  out = jax.lax.map(one, tuple(map(split, (q, k, v, mask, bias))))
  return out.reshape(*heads, *out.shape[2:])


def _four_axes(x: Array | np.ndarray | None) -> Array | None:
  """Adds leading axes until there are four."""
  if x is None:
    return None
  return jnp.reshape(x, (1,) * (4 - x.ndim) + x.shape)


def block_causal_mask(sizes: tuple[int, ...]) -> np.ndarray:
  """Mask in which a block sees itself and the blocks before it.

  Args:
    sizes: tokens in each block; all 1 gives the causal mask.

  Returns:
    bool [T, T] with T = sum(sizes), rows are queries.
  """
  level = np.repeat(np.arange(len(sizes)), sizes)
  return level[:, None] >= level[None, :]


@struct.dataclass
class Cache:
  """Keys and values of the tokens so far, at a static capacity S.

  Attributes:
    k: [B, A, S, E], or [L, B, A, S, E] for a stack of layers.
    v: as k.
  """

  k: Array
  v: Array

  @classmethod
  def empty(
    cls,
    batch: int,
    heads: int,
    capacity: int,
    head_dim: int,
    *,
    layers: int | None = None,
    dtype: Any = jnp.float32,
  ) -> Cache:
    """Makes a cache of zeros."""
    shape: tuple[int, ...] = (batch, heads, capacity, head_dim)
    if layers is not None:
      shape = (layers, *shape)
    return cls(k=jnp.zeros(shape, dtype), v=jnp.zeros(shape, dtype))

  def append(self, k: Array, v: Array, start: int | Array) -> Cache:
    """Writes k, v [B, A, T, E] at slots start ... start + T - 1."""
    at = (0, 0, start, 0)
    return Cache(
      k=jax.lax.dynamic_update_slice(self.k, k.astype(self.k.dtype), at),
      v=jax.lax.dynamic_update_slice(self.v, v.astype(self.v.dtype), at),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionConfig:
  """Shape and dialect of an attention layer.

  Attributes:
    width: D.
    heads: A.
    head_dim: E; width // heads if None.
    bias: biases of the query, key and value projections: all of them, none, or
      'qv' (VAR, ResTok: no key bias); 'nowhere': the output has none either.
    qk_norm: None; 'l2' (VAR: unit queries and keys, a learned scale per head
      of at most 100 in place of E ** -0.5); 'layer' or 'rms' (over E);
      'standard', a layer norm without parameters and with 1e-5 added to the
      variance (FlexTok).
    scale: of the logits: 'root', E ** -0.5, or 'mup', 8 / E, at which the best
      learning rate stays where it is as the width grows (Yang et al., arXiv
      2203.03466); they are one at E = 64.
  """

  width: int
  heads: int
  head_dim: int | None = None
  bias: Bias = 'all'
  qk_norm: QKNorm | None = None
  scale: Scale = 'root'

  def __post_init__(self):
    if self.head_dim is None and self.width % self.heads:
      raise ValueError(
        f'width {self.width} is not divisible by {self.heads} heads; change '
        'one of them or set head_dim'
      )

  @property
  def features(self) -> int:
    """E, the features of one head."""
    return self.head_dim or self.width // self.heads


class Attention(nn.Module):
  """Multi-head self-attention, in parts that a host can call one by one.

  `__call__` is `project`, `dot_product_attention`, `output`. A host that needs
  keys or one row of the attention calls the parts itself.
  """

  config: AttentionConfig
  dtype: Any = jnp.float32
  implementation: Implementation = 'xla'

  def setup(self):
    """Makes the parts."""
    c = self.config
    inner = c.heads * c.features
    dense = lambda n, bias, std: products.Dense(
      n,
      use_bias=bias,
      dtype=self.dtype,
      kernel_init=nn.initializers.truncated_normal(std),
    )
    self.qkv = dense(3 * inner, c.bias == 'all', c.width**-0.5)
    self.proj = dense(c.width, c.bias != 'nowhere', inner**-0.5)
    if c.bias == 'qv':
      self.q_bias = self.param('q_bias', nn.initializers.zeros, (inner,))
      self.v_bias = self.param('v_bias', nn.initializers.zeros, (inner,))
    if c.qk_norm == 'l2':
      self.log_scale = self.param(
        'log_scale', nn.initializers.constant(float(np.log(4))), (c.heads,)
      )
    elif c.qk_norm:
      plain = c.qk_norm == 'standard'
      norm = lambda: norms.make_norm(
        'layer' if plain else str(c.qk_norm),
        eps=1e-5 if plain else 1e-6,
        affine=not plain,
        dtype=self.dtype,
      )
      self.q_norm, self.k_norm = norm(), norm()

  @property
  def logit_scale(self) -> float:
    """What `dot_product_attention` multiplies the logits by."""
    c = self.config
    if c.qk_norm == 'l2':
      return 1.0
    return 8 / c.features if c.scale == 'mup' else c.features**-0.5

  def project(self, x: Array) -> tuple[Array, Array, Array]:
    """Gives q, k, v [B, A, T, E] of x [B, T, D], normed, not rotated."""
    c = self.config
    batch, length, _ = x.shape
    qkv = self.qkv(x)
    if c.bias == 'qv':
      bias = jnp.concatenate(
        [self.q_bias, jnp.zeros_like(self.q_bias), self.v_bias]
      )
      qkv = qkv + bias.astype(qkv.dtype)[None, None]
    qkv = qkv.reshape(batch, length, 3, c.heads, c.features)
    q, k, v = jnp.moveaxis(qkv, (2, 3), (0, 2))  # each [B, A, T, E]
    if c.qk_norm == 'l2':
      scale = jnp.exp(jnp.minimum(self.log_scale, np.log(100.0)))
      q = norms.l2_normalize(q) * scale[None, :, None, None].astype(q.dtype)
      k = norms.l2_normalize(k)
    elif c.qk_norm:
      q, k = self.q_norm(q), self.k_norm(k)
    return q, k, v

  def output(self, heads: Array) -> Array:
    """Joins the heads [B, A, T, E] and projects them to [B, T, D]."""
    batch, _, length, _ = heads.shape
    joined = jnp.swapaxes(heads, 1, 2).reshape(batch, length, -1)
    return self.proj(joined)

  def __call__(
    self,
    x: Array,
    *,
    mask: Array | None = None,
    bias: Array | None = None,
    rotation: positions_lib.Rotation | None = None,
    cache: Cache | None = None,
    start: int | Array = 0,
    visible: int | None = None,
    projected: tuple[Array, Array, Array] | None = None,
  ) -> tuple[Array, Cache | None]:
    """Attends.

    Args:
      x: [B, T, D].
      mask: see `dot_product_attention`; over the visible part of the cache if
        there is one.
      bias: see `dot_product_attention`.
      rotation: rotary positions of the T tokens.
      cache: earlier keys and values; the T new ones are written at `start`.
      start: the first slot written.
      visible: the static number of cache slots attended to; all if None. With
        exact caches it is start + T and no mask is needed.
      projected: q, k, v of x where a host has them from `project` already.

    Returns:
      [B, T, D], and the cache with the new keys and values (None if none was
      given).
    """
    q, k, v = self.project(x) if projected is None else projected
    if rotation is not None:
      q = positions_lib.rotate(q, rotation)
      k = positions_lib.rotate(k, rotation)
    if cache is not None:
      cache = cache.append(k, v, start)
      k = cache.k[:, :, :visible].astype(q.dtype)
      v = cache.v[:, :, :visible].astype(q.dtype)
    heads = dot_product_attention(
      q,
      k,
      v,
      mask=mask,
      bias=bias,
      scale=self.logit_scale,
      implementation=self.implementation,
    )
    return self.output(heads), cache
