"""Transformer blocks, plain or modulated (adaLN).

Dimension letters: B batch, T tokens, D model features, A heads, E head
features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.nn import attention as attention_lib
from tokpress_jax.nn import norms, products

Array = jax.Array
Activation = Literal['gelu', 'gelu_quick', 'gelu_tanh', 'relu', 'swiglu']

# The order of the six modulation vectors inside our parameters (VAR's). Other
# code orders them differently; their key maps reorder, nothing else does.
MODULATION = ('gate1', 'gate2', 'scale1', 'scale2', 'shift1', 'shift2')


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockConfig:
  """One transformer block.

  Attributes:
    width: D.
    heads: A.
    head_dim: E; width // heads if None.
    mlp_ratio: hidden features of the MLP over D.
    activation: 'gelu' (exact), 'gelu_tanh', 'gelu_quick' (CLIP's), 'relu' (half
      the cost of an MLP's training step on a CPU), or 'swiglu' (gated).
    norm: 'layer' or 'rms'.
    norm_place: 'before' a branch, or 'after' it has been added (BERT).
    norm_eps: of the norms.
    norm_affine: whether norms have parameters (adaLN blocks go without).
    bias: of the attention's projections, see `AttentionConfig`; with 'nowhere'
      the MLP has none either.
    qk_norm: see `AttentionConfig`.
    scale: see `AttentionConfig`.
    modulation: None; 'block' (adaLN: SiLU and a linear layer of the condition
      in each block); 'shared' (the condition is six vectors already, each block
      adds its own offset: VAR-d36, Infinity).
    gate_init: standard deviation factor of the modulation's gates at the start.
    dropout: rate on each branch's output in training.
    drop_path: rate at which a whole branch is dropped per sample at the last
      layer; earlier layers rise linearly from 0.
  """

  width: int
  heads: int
  head_dim: int | None = None
  mlp_ratio: float = 4.0
  activation: Activation = 'gelu'
  norm: Literal['layer', 'rms'] = 'layer'
  norm_place: Literal['before', 'after'] = 'before'
  norm_eps: float = 1e-6
  norm_affine: bool = True
  bias: attention_lib.Bias = 'all'
  qk_norm: attention_lib.QKNorm | None = None
  scale: attention_lib.Scale = 'root'
  modulation: Literal['block', 'shared'] | None = None
  streams: tuple[int, ...] = ()
  gate_init: float = 1e-3
  dropout: float = 0.0
  drop_path: float = 0.0

  @property
  def attention(self) -> attention_lib.AttentionConfig:
    """The attention layer's config."""
    return attention_lib.AttentionConfig(
      width=self.width,
      heads=self.heads,
      head_dim=self.head_dim,
      bias=self.bias,
      qk_norm=self.qk_norm,
      scale=self.scale,
    )


class Mlp(nn.Module):
  """The block's MLP: two layers with an activation, or three when gated."""

  config: BlockConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: Array) -> Array:
    """Maps x [..., D] to [..., D]."""
    c = self.config
    hidden = round(c.mlp_ratio * c.width)
    dense = lambda n, name: products.Dense(
      n,
      use_bias=c.bias != 'nowhere',
      dtype=self.dtype,
      name=name,
      kernel_init=nn.initializers.variance_scaling(
        1.0, 'fan_in', 'truncated_normal'
      ),
    )
    y = dense(hidden, 'fc1')(x)
    if c.activation == 'swiglu':
      y = nn.silu(y) * dense(hidden, 'gate')(x)
    elif c.activation == 'relu':
      y = nn.relu(y)
    elif c.activation == 'gelu_quick':
      y = y * nn.sigmoid(1.702 * y)
    else:
      y = nn.gelu(y, approximate=c.activation == 'gelu_tanh')
    return dense(c.width, 'fc2')(y)


class Block(nn.Module):
  """`attend`, then `feed`; a host may act in between."""

  config: BlockConfig
  dtype: Any = jnp.float32
  implementation: attention_lib.Implementation = 'xla'

  def setup(self):
    """Makes the parts."""
    c = self.config
    norm = lambda: norms.make_norm(
      c.norm, eps=c.norm_eps, affine=c.norm_affine, dtype=self.dtype
    )
    self.norm1, self.norm2 = norm(), norm()
    self.attn = attention_lib.Attention(
      c.attention, dtype=self.dtype, implementation=self.implementation
    )
    self.mlp = Mlp(c, dtype=self.dtype)
    if c.modulation == 'block':
      streams = max(len(c.streams), 1)
      self.ada = products.Dense(
        streams * 6 * c.width,
        dtype=self.dtype,
        kernel_init=_modulation_init(c.gate_init, streams),
      )
    elif c.modulation == 'shared':
      self.ada_offset = self.param(
        'ada_offset',
        nn.initializers.normal(c.width**-0.5),
        (6, c.width),
      )

  @property
  def _first(self) -> bool:
    return self.config.norm_place == 'before'

  def modulation(self, cond: Array | None) -> dict[str, Array]:
    """Gives the six modulation vectors of a condition.

    Args:
      cond: [B, D] or, per position, [B, T, D]; for 'shared' modulation
        [B, 6, D]. None for plain blocks.

    Returns:
      name to [B, 1 or T, D] (T with `streams`); empty for plain blocks.
    """
    c = self.config
    if c.modulation is None:
      return {}
    if cond is None:
      raise ValueError('a modulated block needs `cond`')
    if c.modulation == 'shared':
      six = cond + self.ada_offset[None].astype(cond.dtype)
      parts = [six[:, None, i] for i in range(6)]
    else:
      if cond.ndim == 2:
        cond = cond[:, None]
      rows = self.ada(nn.silu(cond))
      if c.streams:
        rows = _of_streams(rows, c.streams)
      parts = jnp.split(rows, 6, axis=-1)
    return dict(zip(MODULATION, parts, strict=True))

  def attend(
    self,
    x: Array,
    mod: dict[str, Array],
    *,
    drop: Array | float = 0.0,
    deterministic: bool = True,
    cache: attention_lib.Cache | None = None,
    **kwargs: Any,
  ) -> tuple[Array, attention_lib.Cache | None]:
    """Adds the attention branch to x [B, T, D]; see `Attention`."""
    y, cache = self.attn(self.pre_attention(x, mod), cache=cache, **kwargs)
    x = self.post_attention(x, y, mod, drop=drop, deterministic=deterministic)
    return x, cache

  def feed(
    self,
    x: Array,
    mod: dict[str, Array],
    *,
    drop: Array | float = 0.0,
    deterministic: bool = True,
  ) -> Array:
    """Adds the MLP branch to x [B, T, D]."""
    y = self.norm2(x) if self._first else x
    if mod:
      y = norms.modulate(y, mod['scale2'], mod['shift2'])
    x = x + self._branch(self.mlp(y), mod, 'gate2', drop, deterministic)
    return x if self._first else self.norm2(x)

  def pre_attention(self, x: Array, mod: dict[str, Array]) -> Array:
    """What the attention reads: x [B, T, D] normed and modulated."""
    y = self.norm1(x) if self._first else x
    return norms.modulate(y, mod['scale1'], mod['shift1']) if mod else y

  def post_attention(
    self,
    x: Array,
    y: Array,
    mod: dict[str, Array],
    *,
    drop: Array | float = 0.0,
    deterministic: bool = True,
  ) -> Array:
    """Adds to x [B, T, D] what the attention gave, y [B, T, D]."""
    x = x + self._branch(y, mod, 'gate1', drop, deterministic)
    return x if self._first else self.norm1(x)

  def __call__(
    self,
    x: Array,
    *,
    cond: Array | None = None,
    mod: dict[str, Array] | None = None,
    drop: Array | float = 0.0,
    deterministic: bool = True,
    **kwargs: Any,
  ) -> tuple[Array, attention_lib.Cache | None]:
    """Runs the block.

    Args:
      x: [B, T, D].
      cond: see `modulation`.
      mod: what `modulation` gave, where it is known already.
      drop: this layer's rate of dropping a branch (stochastic depth).
      deterministic: no dropout if True; else an rng 'dropout' is needed.
      **kwargs: mask, bias, rotation, cache, start, visible of `Attention`.

    Returns:
      [B, T, D] and the cache (None if none was given).
    """
    if mod is None:
      mod = self.modulation(cond)
    x, cache = self.attend(
      x, mod, drop=drop, deterministic=deterministic, **kwargs
    )
    return self.feed(x, mod, drop=drop, deterministic=deterministic), cache

  def _branch(self, y, mod, gate, drop, deterministic):
    """Gates and randomly drops a branch's output."""
    if mod:
      y = y * mod[gate]
    if deterministic:
      return y
    c = self.config
    if c.dropout:
      keep = 1 - c.dropout
      kept = jax.random.bernoulli(self.make_rng('dropout'), keep, y.shape)
      y = jnp.where(kept, y / keep, 0)
    if c.drop_path:
      survive = 1 - jnp.asarray(drop, jnp.float32)
      shape = (y.shape[0], 1, 1)
      kept = jax.random.uniform(self.make_rng('dropout'), shape) < survive
      y = jnp.where(kept, y / survive.astype(y.dtype), 0)
    return y


def _of_streams(rows: Array, streams: tuple[int, ...]) -> Array:
  """Gives each token what its stream has: [B, 1, S 6 D] to [B, T, 6 D]."""
  batch = rows.shape[0]
  each = jnp.split(rows, len(streams), axis=-1)
  spread = [
    jnp.broadcast_to(x, (batch, tokens, x.shape[-1]))
    for x, tokens in zip(each, streams, strict=True)
  ]
  return jnp.concatenate(spread, axis=1)


def _modulation_init(gate: float, streams: int = 1) -> Callable[..., Array]:
  """Initialises adaLN: gates `gate` times, the rest half a usual draw."""

  def init(rng, shape, dtype=jnp.float32):
    draw = nn.initializers.truncated_normal(shape[0] ** -0.5)(rng, shape, dtype)
    part = shape[1] // (6 * streams)
    factors = jnp.repeat(jnp.array([gate] * 2 + [0.5] * 4, dtype), part)
    return draw * jnp.tile(factors, streams)[None]

  return init
