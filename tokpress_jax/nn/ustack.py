"""A U-shaped stack of transformer blocks (U-ViT).

Bao et al., "All are Worth Words" (arXiv 2209.12152): each layer of the second
half first joins its input with what the layer opposite gave.

Dimension letters: B batch, T tokens, D model features, L layers, H layers of a
half.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn.block import Block
from tokpress_jax.nn.stack import StackConfig, init_layers

Array = jax.Array


class UStack(nn.Module):
  """H layers, a middle one, and H that also read the first H backwards.

  Attributes:
    config: of the layers; L = 2 H + 1.
    dtype: of the matmuls.
  """

  config: StackConfig
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: Array,
    *,
    mask: Array | None = None,
    deterministic: bool = True,
  ) -> tuple[Array, None]:
    """Runs the layers.

    Args:
      x: [B, T, D].
      mask: see `dot_product_attention`.
      deterministic: no dropout if True; else an rng 'dropout' is needed.

    Returns:
      [B, T, D], and None in the place of a cache.

    Raises:
      ValueError: if L is even.
    """
    c = self.config
    if c.depth % 2 == 0:
      raise ValueError(f'a U-shaped stack has an odd depth, got {c.depth}')
    half, width = c.depth // 2, c.block.width
    layers: Any
    if self.has_variable('params', 'layers'):  # stacked, or split by `unstack`
      layers = self.get_variable('params', 'layers')
    else:
      layers = self.param('layers', init_layers(c, self.dtype))
    kernel = self.param(
      'skip_kernel',
      nn.initializers.lecun_normal(batch_axis=(0,)),
      (half, 2 * width, width),
    )
    bias = self.param('skip_bias', nn.initializers.zeros, (half, width))
    block = Block(c.block, dtype=self.dtype)
    rates = jnp.linspace(0, c.block.drop_path, c.depth, dtype=np.float32)
    noisy = not deterministic and bool(c.block.dropout or c.block.drop_path)
    rngs = (
      jax.random.split(self.make_rng('dropout'), c.depth) if noisy else None
    )

    def run(x, params, rate, rng):
      x, _ = block.apply(
        {'params': params},
        x,
        mask=mask,
        drop=rate,
        deterministic=not noisy,
        rngs={'dropout': rng} if noisy else None,
      )
      return x

    def join(x, opposite, kernel, bias):
      both = jnp.concatenate([x, opposite], axis=-1)
      return both @ kernel.astype(x.dtype) + bias.astype(x.dtype)[None, None]

    if c.remat:
      run = jax.checkpoint(run)
    if isinstance(layers, list | tuple):
      rng = lambda i: None if rngs is None else rngs[i]
      layer = lambda x, i: run(x, layers[i], rates[i], rng(i))
      given = []
      for i in range(half):
        x = layer(x, i)
        given.append(x)
      x = layer(x, half)
      for i in range(half):
        x = join(x, given.pop(), kernel[i], bias[i])
        x = layer(x, half + 1 + i)
      return x, None
    each = (layers, rates, rngs)
    part = lambda first, last: jax.tree.map(lambda a: a[first:last], each)
    x, opposite = jax.lax.scan(
      lambda x, layer: (run(x, *layer),) * 2, x, part(0, half)
    )
    x = run(x, *jax.tree.map(lambda a: a[half], each))
    second = (part(half + 1, None), (opposite[::-1], kernel, bias))
    x, _ = jax.lax.scan(
      lambda x, xs: (run(join(x, *xs[1]), *xs[0]), None), x, second
    )
    return x, None
