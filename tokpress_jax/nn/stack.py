"""A stack of equal transformer blocks, run by one scan.

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
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn import attention as attention_lib
from tokpress_jax.nn import positions as positions_lib
from tokpress_jax.nn.block import Block, BlockConfig

Array = jax.Array


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


def init_layers(config: StackConfig, dtype: Any) -> Callable[[Array], Any]:
  """Gives what draws the stacked parameters [L, ...] of equal blocks."""

  def init(rng: Array) -> Any:
    c = config.block
    x = jnp.zeros((1, 1, c.width), dtype)
    cond = jnp.zeros(
      (1, 6, c.width) if c.modulation == 'shared' else x[0].shape
    )
    one = lambda key: Block(c, dtype=dtype).init(
      key, x, cond=cond if c.modulation else None
    )
    return jax.vmap(one)(jax.random.split(rng, config.depth))['params']

  return init


class Stack(nn.Module):
  """L blocks with parameters stacked under one name, `layers`."""

  config: StackConfig
  dtype: Any = jnp.float32
  implementation: attention_lib.Implementation = 'xla'

  def _layers(self) -> Any:
    """The stacked parameters [L, ...] (or what `unstack` made of them)."""
    c = self.config
    if self.has_variable('params', 'layers'):
      return self.get_variable('params', 'layers')

    return self.param('layers', init_layers(c, self.dtype))

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

  def modulation(self, cond: Array | None) -> Any:
    """Gives what a condition does in every layer, for `__call__`.

    Where the layers run many times under one condition, as in sampling, the
    modulation's weights are read once.

    Args:
      cond: see `Block.modulation`.

    Returns:
      name to [L, B, 1 or T, D]; a tuple of one dict per layer if the parameters
      went through `unstack`.
    """
    c = self.config
    block = Block(c.block, dtype=self.dtype, parent=None)
    one = lambda params: block.apply(
      {'params': params}, cond, method='modulation'
    )
    layers = self._layers()
    if isinstance(layers, list | tuple):
      return tuple(one(params) for params in layers)
    return jax.vmap(one)(layers)

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    cond: Array | None = None,
    mod: Any = None,
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
      mod: what `modulation` gave, in place of `cond`.
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
    block = Block(c.block, dtype=self.dtype, implementation=self.implementation)
    rates = np.linspace(0, c.block.drop_path, c.depth, dtype=np.float32)
    noisy = not deterministic and (c.block.dropout or c.block.drop_path)
    rngs = (
      jax.random.split(self.make_rng('dropout'), c.depth) if noisy else None
    )

    def run(x, params, rate, rng, layer_mod, layer_cache):
      return block.apply(
        {'params': params},
        x,
        cond=cond,
        mod=layer_mod,
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
      return _run_unrolled(run, x, layers, rates, rngs, mod, cache, first, last)
    pick = lambda tree: jax.tree.map(lambda a: a[first:last], tree)
    if (first, last) == (0, c.depth):
      pick = lambda tree: tree
    each = (layers, jnp.asarray(rates), rngs, mod, cache)
    xs = tuple(map(pick, each))
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
  mod: Any,
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
      None if mod is None else mod[i],
      None if caches is None else caches[i],
    )
    if caches is not None:
      caches[i] = new
  return x, None if caches is None else tuple(caches)


def over_layers(
  run: Callable[..., Any], x: Any, layers: Any, *, unroll: int = 1
) -> Any:
  """Runs x through equal layers: one scan, or one after another.

  Args:
    run: (x, layer) -> x.
    x: a pytree of arrays.
    layers: what differs between layers: a pytree of arrays [L, ...], or a tuple
      of L pytrees (see `unstack`).
    unroll: of the scan.

  Returns:
    As x.
  """
  if isinstance(layers, list | tuple):
    for layer in layers:
      x = run(x, layer)
    return x
  return jax.lax.scan(
    lambda x, layer: (run(x, layer), None), x, layers, unroll=unroll
  )[0]


def take_layer(layers: Any, layer: int) -> Any:
  """One layer's parameters, of stacked ones or of what `unstack` made."""
  if isinstance(layers, list | tuple):
    return layers[layer]
  return jax.tree.map(lambda a: a[layer], layers)


def unstack(tree: Any) -> Any:
  """Splits every stacked `layers` of a tree of parameters into a tuple.

  Call it once, outside `jit`. A `Stack` given such parameters unrolls its
  layers and takes its cache as a tuple of one `Cache` per layer.

  Args:
    tree: parameters (or variables) with any number of stacks.

  Returns:
    The same tree with each `layers` a tuple of L trees (one that is split
    already stays as it is).
  """
  if not isinstance(tree, dict):
    return tree

  def split(stacked):
    depth = jax.tree.leaves(stacked)[0].shape[0]
    return tuple(
      jax.tree.map(lambda a, i=i: a[i], stacked) for i in range(depth)
    )

  return {
    name: split(value)
    if name == 'layers' and isinstance(value, dict)
    else unstack(value)
    for name, value in tree.items()
  }
