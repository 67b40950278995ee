"""Two streams, an image's and a text's, that attend to each other (MM-DiT).

Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image
Synthesis" (arXiv 2403.03206), section 4, figure 2. Each stream has weights of
its own, and both are modulated by one condition; the attention is over their
tokens together. After the last layer nobody reads the text, so that it is only
attended to there: it has neither an MLP nor an output.

Dimension letters: B batch, T tokens of the image, M of the text, D features, A
heads, E head features, L layers.
"""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.nn import attention as attention_lib
from tokpress_jax.nn import norms, products
from tokpress_jax.nn.block import Block, BlockConfig
from tokpress_jax.nn.stack import StackConfig, over_layers

Array = jax.Array


class JointBlock(nn.Module):
  """A block for the image, one for the text, and one attention over both.

  Attributes:
    config: of both streams; modulated by 'block'.
    text_stream: 'updated', or 'read' in a last layer, which only attends to it.
    dtype: of the matmuls.
  """

  config: BlockConfig
  text_stream: Literal['updated', 'read'] = 'updated'
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    if c.qk_norm or c.bias != 'all':
      raise ValueError(
        'a joint block has biases and no norm of queries and keys, got '
        f'bias={c.bias!r}, qk_norm={c.qk_norm!r}'
      )
    self.image = Block(c, dtype=self.dtype)
    if self.text_stream == 'updated':
      self.text = Block(c, dtype=self.dtype)
    else:
      self.text_norm = norms.ModulatedNorm(
        c.width, eps=c.norm_eps, dtype=self.dtype
      )
      # It asks nothing itself: keys and values alone.
      self.text_kv = products.Dense(
        2 * c.heads * c.attention.features,
        dtype=self.dtype,
        kernel_init=nn.initializers.truncated_normal(c.width**-0.5),
      )

  def modulation(self, cond: Array) -> tuple[Any, Any]:
    """What a condition [B, D] does to the image and to the text."""
    image = self.image.modulation(cond)
    if self.text_stream == 'updated':
      return image, self.text.modulation(cond)
    return image, self.text_norm.modulation(cond[:, None])

  def _keys_values(self, text: Array) -> tuple[Array, Array]:
    """Keys and values [B, A, M, E] of a text [B, M, D] that is only read."""
    heads, features = self.config.heads, self.config.attention.features
    kv = self.text_kv(text).reshape(*text.shape[:2], 2, heads, features)
    k, v = jnp.moveaxis(kv, (2, 3), (0, 2))
    return k, v

  def __call__(
    self,
    x: Array,
    text: Array,
    *,
    cond: Array | None = None,
    mod: tuple[Any, Any] | None = None,
    drop: Array | float = 0.0,
    deterministic: bool = True,
  ) -> tuple[Array, Array]:
    """Runs the block.

    Args:
      x: [B, T, D].
      text: [B, M, D].
      cond: [B, D].
      mod: what `modulation` gave, in place of `cond`.
      drop: this layer's rate of dropping a branch (stochastic depth).
      deterministic: no dropout if True; else an rng 'dropout' is needed.

    Returns:
      x and the text, which stays as it was if it is only read.
    """
    if mod is None:
      if cond is None:
        raise ValueError('a joint block needs `cond` or `mod`')
      mod = self.modulation(cond)
    of_image, of_text = mod
    options: dict[str, Any] = {'drop': drop, 'deterministic': deterministic}
    updated = self.text_stream == 'updated'
    q, k, v = self.image.attn.project(self.image.pre_attention(x, of_image))
    if updated:
      read = self.text.pre_attention(text, of_text)
      text_q, text_k, text_v = self.text.attn.project(read)
      q = jnp.concatenate([q, text_q], axis=2)
    else:
      text_k, text_v = self._keys_values(self.text_norm(text, mod=of_text))
    k = jnp.concatenate([k, text_k], axis=2)
    v = jnp.concatenate([v, text_v], axis=2)
    length = x.shape[1]
    heads = attention_lib.dot_product_attention(
      q, k, v, scale=self.image.attn.logit_scale
    )
    y = self.image.attn.output(heads[:, :, :length])
    x = self.image.post_attention(x, y, of_image, **options)
    x = self.image.feed(x, of_image, **options)
    if updated:
      y = self.text.attn.output(heads[:, :, length:])
      text = self.text.post_attention(text, y, of_text, **options)
      text = self.text.feed(text, of_text, **options)
    return x, text


class JointStack(nn.Module):
  """L joint blocks: L - 1 with stacked parameters, `layers`, and the `last`.

  Attributes:
    config: the layers; their block is of both streams.
    dtype: of the matmuls.
  """

  config: StackConfig
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parameters."""
    c, absent = self.config, not self.has_variable('params', 'last')
    if absent and c.depth > 1:
      self.param('layers', self._init_layers)
    if absent:
      self.param('last', self._init_one('read'))

  def _block(self, text_stream: Literal['updated', 'read']) -> JointBlock:
    return JointBlock(
      self.config.block, text_stream, dtype=self.dtype, parent=None
    )

  def _init_one(self, text_stream: Literal['updated', 'read']) -> Any:
    width = self.config.block.width
    x = jnp.zeros((1, 1, width), self.dtype)
    cond = jnp.zeros((1, width), self.dtype)
    block = self._block(text_stream)
    return lambda rng: block.init(rng, x, x, cond=cond)['params']

  def _init_layers(self, rng: Array) -> Any:
    keys = jax.random.split(rng, self.config.depth - 1)
    return jax.vmap(self._init_one('updated'))(keys)

  def _parts(self) -> tuple[Any, Any]:
    layers: Any = None
    if self.config.depth > 1:
      layers = self.get_variable('params', 'layers')
    return layers, self.get_variable('params', 'last')

  def modulation(self, cond: Array) -> tuple[Any, Any]:
    """What a condition does in every layer, for `__call__`.

    Where the layers run many times under one condition, as in sampling, a third
    of their weights is then read once.

    Args:
      cond: [B, D].

    Returns:
      That of the `layers`, stacked or a tuple as they are, and of the `last`.
    """
    layers, last = self._parts()
    run = lambda stream: (
      lambda params: self._block(stream).apply(
        {'params': params}, cond, method='modulation'
      )
    )
    if isinstance(layers, list | tuple):
      mods: Any = tuple(map(run('updated'), layers))
    else:
      mods = None if layers is None else jax.vmap(run('updated'))(layers)
    return mods, run('read')(last)

  def __call__(
    self,
    x: Array,
    text: Array,
    *,
    cond: Array | None = None,
    mod: tuple[Any, Any] | None = None,
    deterministic: bool = True,
  ) -> Array:
    """Runs the layers.

    Args:
      x: [B, T, D].
      text: [B, M, D].
      cond: [B, D].
      mod: what `modulation` gave, in place of `cond`.
      deterministic: no dropout if True; else an rng 'dropout' is needed.

    Returns:
      [B, T, D].
    """
    c = self.config
    layers, last = self._parts()
    rates = np.linspace(0, c.block.drop_path, c.depth, dtype=np.float32)
    noisy = not deterministic and bool(c.block.dropout or c.block.drop_path)
    rngs = (
      jax.random.split(self.make_rng('dropout'), c.depth) if noisy else None
    )

    def run(stream: Literal['updated', 'read']) -> Any:
      def one(carry: Any, layer: dict[str, Any]) -> Any:
        return self._block(stream).apply(
          {'params': layer['params']},
          *carry,
          cond=cond,
          mod=layer['mod'],
          drop=layer['rate'],
          deterministic=not noisy,
          rngs={'dropout': layer['rng']} if noisy else None,
        )

      return jax.checkpoint(one) if c.remat else one

    def facts(params: Any, mod: Any, at: Any) -> dict[str, Any]:
      rng = None if rngs is None else rngs[at]
      return {'params': params, 'mod': mod, 'rate': rates[at], 'rng': rng}

    mods, last_mod = (None, None) if mod is None else mod
    state = (x, text)
    if isinstance(layers, list | tuple):
      each: Any = tuple(
        facts(params, None if mods is None else mods[i], i)
        for i, params in enumerate(layers)
      )
      state = over_layers(run('updated'), state, each)
    elif layers is not None:
      each = facts(layers, mods, slice(c.depth - 1))
      state = over_layers(run('updated'), state, each, unroll=c.unroll)
    return run('read')(state, facts(last, last_mod, -1))[0]
