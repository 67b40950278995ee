"""Transformer blocks, plain or modulated (adaLN), and a stack of them.

Dimension letters: B batch, T tokens, S cached tokens, D model features, L
layers, A heads, E head features.

The parameters of a stack are stored stacked, `[L, ...]`, and run by one
`lax.scan`; a host may run any segment of the layers (between two pruning
points, say). Where layers are unrolled, `unstack` splits them once, outside the
jitted program: a static slice of a stacked weight costs a copy per step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn import attention as attention_lib
from tokpress_jax.nn import norms
from tokpress_jax.nn import positions as positions_lib

Array = jax.Array
Activation = Literal['gelu', 'gelu_tanh', 'relu', 'swiglu']

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
    activation: 'gelu' (exact), 'gelu_tanh', 'relu' (half the cost of an MLP's
      training step on a CPU), or 'swiglu' (gated).
    norm: 'layer' or 'rms'.
    norm_eps: of the norms.
    norm_affine: whether norms have parameters (adaLN blocks go without).
    bias: of the attention's projections, see `AttentionConfig`.
    qk_norm: see `AttentionConfig`.
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
  norm_eps: float = 1e-6
  norm_affine: bool = True
  bias: Literal['all', 'qv', 'none'] = 'all'
  qk_norm: Literal['l2', 'layer', 'rms'] | None = None
  modulation: Literal['block', 'shared'] | None = None
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
    dense = lambda n, name: nn.Dense(
      n,
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
    else:
      y = nn.gelu(y, approximate=c.activation == 'gelu_tanh')
    return dense(c.width, 'fc2')(y)


class Block(nn.Module):
  """Pre-norm block: `attend`, then `feed`; a host may act in between."""

  config: BlockConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    norm = lambda: norms.make_norm(
      c.norm, eps=c.norm_eps, affine=c.norm_affine, dtype=self.dtype
    )
    self.norm1, self.norm2 = norm(), norm()
    self.attn = attention_lib.Attention(c.attention, dtype=self.dtype)
    self.mlp = Mlp(c, dtype=self.dtype)
    if c.modulation == 'block':
      self.ada = nn.Dense(
        6 * c.width,
        dtype=self.dtype,
        kernel_init=_modulation_init(c.gate_init),
      )
    elif c.modulation == 'shared':
      self.ada_offset = self.param(
        'ada_offset',
        nn.initializers.normal(c.width**-0.5),
        (6, c.width),
      )

  def modulation(self, cond: Array | None) -> dict[str, Array]:
    """Gives the six modulation vectors of a condition.

    Args:
      cond: [B, D] or, per position, [B, T, D]; for 'shared' modulation
        [B, 6, D]. None for plain blocks.

    Returns:
      name to [B, 1 or T, D]; empty for plain blocks.
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
      parts = jnp.split(self.ada(nn.silu(cond)), 6, axis=-1)
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
    return x + self._branch(y, mod, 'gate1', drop, deterministic), cache

  def feed(
    self,
    x: Array,
    mod: dict[str, Array],
    *,
    drop: Array | float = 0.0,
    deterministic: bool = True,
  ) -> Array:
    """Adds the MLP branch to x [B, T, D]."""
    y = self.norm2(x)
    if mod:
      y = norms.modulate(y, mod['scale2'], mod['shift2'])
    return x + self._branch(self.mlp(y), mod, 'gate2', drop, deterministic)

  def pre_attention(self, x: Array, mod: dict[str, Array]) -> Array:
    """What the attention reads: x [B, T, D] normed and modulated."""
    y = self.norm1(x)
    return norms.modulate(y, mod['scale1'], mod['shift1']) if mod else y

  def __call__(
    self,
    x: Array,
    *,
    cond: Array | None = None,
    drop: Array | float = 0.0,
    deterministic: bool = True,
    **kwargs: Any,
  ) -> tuple[Array, attention_lib.Cache | None]:
    """Runs the block.

    Args:
      x: [B, T, D].
      cond: see `modulation`.
      drop: this layer's rate of dropping a branch (stochastic depth).
      deterministic: no dropout if True; else an rng 'dropout' is needed.
      **kwargs: mask, bias, rotation, cache, start, visible of `Attention`.

    Returns:
      [B, T, D] and the cache (None if none was given).
    """
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
  """A stack of equal blocks.

  Attributes:
    depth: L.
    block: of every layer.
    remat: recompute activations in the backward pass (less memory).
    unroll: how many layers `lax.scan` unrolls; depth unrolls all of them
      (slower to compile, sometimes faster to run).
  """

  depth: int
  block: BlockConfig
  remat: bool = False
  unroll: int = 1


class Stack(nn.Module):
  """L blocks with parameters stacked under one name, `layers`."""

  config: StackConfig
  dtype: Any = jnp.float32

  def _layers(self) -> Any:
    """The stacked parameters [L, ...] (or what `unstack` made of them)."""
    c = self.config
    if self.has_variable('params', 'layers'):
      return self.get_variable('params', 'layers')

    def init(rng):
      x = jnp.zeros((1, 1, c.block.width), self.dtype)
      six = (1, 6, c.block.width)
      cond = jnp.zeros(six if c.block.modulation == 'shared' else (1, six[2]))
      one = lambda key: Block(c.block, dtype=self.dtype).init(
        key, x, cond=cond if c.block.modulation else None
      )
      return jax.vmap(one)(jax.random.split(rng, c.depth))['params']

    return self.param('layers', init)

  def empty_cache(self, batch: int, capacity: int) -> Any:
    """Makes the cache that `__call__` takes, in this module's dtype.

    Args:
      batch: B.
      capacity: slots S.

    Returns:
      One `Cache` with arrays [L, B, A, S, E]; a tuple of one `Cache` per layer
      if the parameters went through `unstack`.
    """
    c = self.config
    attention = c.block.attention
    make = lambda layers: attention_lib.Cache.empty(
      batch,
      attention.heads,
      capacity,
      attention.features,
      layers=layers,
      dtype=self.dtype,
    )
    if isinstance(self._layers(), list | tuple):
      return tuple(make(None) for _ in range(c.depth))
    return make(c.depth)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    cond: Array | None = None,
    mask: Array | None = None,
    bias: Array | None = None,
    rotation: positions_lib.Rotation | None = None,
    cache: attention_lib.Cache | None = None,
    start: int | Array = 0,
    visible: int | None = None,
    deterministic: bool = True,
    segment: tuple[int, int] | None = None,
  ) -> tuple[Array, attention_lib.Cache | None]:
    """Runs the layers, or a segment of them.

    Args:
      x: [B, T, D].
      cond: see `Block.modulation`.
      mask: see `dot_product_attention`.
      bias: see `dot_product_attention`.
      rotation: rotary positions of the T tokens.
      cache: of the whole stack, [L, B, A, S, E].
      start: the first cache slot written.
      visible: the static number of cache slots attended to.
      deterministic: no dropout if True; else an rng 'dropout' is needed.
      segment: layers [first, last) to run; all if None.

    Returns:
      [B, T, D] and the cache (None if none was given).
    """
    c = self.config
    first, last = segment or (0, c.depth)
    block = Block(c.block, dtype=self.dtype)
    rates = np.linspace(0, c.block.drop_path, c.depth, dtype=np.float32)
    noisy = not deterministic and (c.block.dropout or c.block.drop_path)
    rngs = (
      jax.random.split(self.make_rng('dropout'), c.depth) if noisy else None
    )

    def run(x, params, rate, rng, layer_cache):
      return block.apply(
        {'params': params},
        x,
        cond=cond,
        mask=mask,
        bias=bias,
        rotation=rotation,
        cache=layer_cache,
        start=start,
        visible=visible,
        drop=rate,
        deterministic=not noisy,
        rngs={'dropout': rng} if noisy else None,
      )

    if c.remat:
      run = jax.checkpoint(run)
    layers = self._layers()
    if isinstance(layers, list | tuple):
      return _run_unrolled(run, x, layers, rates, rngs, cache, first, last)
    pick = lambda tree: jax.tree.map(lambda a: a[first:last], tree)
    if (first, last) == (0, c.depth):
      pick = lambda tree: tree
    xs = (pick(layers), pick(jnp.asarray(rates)), pick(rngs), pick(cache))
    x, new = jax.lax.scan(
      lambda x, layer: run(x, *layer), x, xs, unroll=c.unroll
    )
    if cache is not None and (first, last) != (0, c.depth):
      new = jax.tree.map(lambda a, b: a.at[first:last].set(b), cache, new)
    return x, new


def _run_unrolled(
  run: Callable[..., Any],
  x: Array,
  layers: Any,
  rates: np.ndarray,
  rngs: Array | None,
  cache: Any,
  first: int,
  last: int,
) -> tuple[Array, Any]:
  """Runs layers that are separate arrays; the cache is a tuple per layer."""
  caches = list(cache) if cache is not None else None
  for i in range(first, last):
    x, new = run(
      x,
      layers[i],
      rates[i],
      None if rngs is None else rngs[i],
      None if caches is None else caches[i],
    )
    if caches is not None:
      caches[i] = new
  return x, None if caches is None else tuple(caches)


def unstack(tree: Any) -> Any:
  """Splits every stacked `layers` of a tree of parameters into a tuple.

  Call it once, outside `jit`. A `Stack` given such parameters unrolls its
  layers and takes its cache as a tuple of one `Cache` per layer.

  Args:
    tree: parameters (or variables) with any number of stacks.

  Returns:
    The same tree with each `layers` a tuple of L trees.
  """
  if not isinstance(tree, dict):
    return tree

  def split(stacked):
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(
      jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth)
    )

  return {
    name: split(value) if name == 'layers' else unstack(value)
    for name, value in tree.items()
  }


def _modulation_init(gate: float) -> Callable[..., Array]:
  """Initialises adaLN: gates `gate` times, the rest half a usual draw."""

  def init(rng, shape, dtype=jnp.float32):
    draw = nn.initializers.truncated_normal(shape[0] ** -0.5)(rng, shape, dtype)
    part = shape[1] // 6
    factors = jnp.repeat(jnp.array([gate] * 2 + [0.5] * 4, dtype), part)
    return draw * factors[None]

  return init
