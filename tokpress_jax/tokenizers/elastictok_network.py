"""ElasticTok's two transformers, over the patches of blocks.

Yan et al., "ElasticTok" (2024, arXiv 2410.08368), section 3.2; `elastictok.py`
says what they are part of. `config` is an `ElasticTokConfig`.

Dimension letters: B batch, T slots of one or more blocks, P numbers in a patch,
D model features, Z code features, L layers, A heads, S slots of a cache, E head
features.
"""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import nn

Array = jax.Array


class Encoder(linen.Module):
  """Patches to what the bottleneck quantises."""

  config: Any
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.embed = _dense(c.width, self.dtype)
    self.kept = nn.LearnedPositions(
      2, c.width, std=c.width**-0.5, dtype=self.dtype
    )
    self.tower = Tower(c, c.encoder_depth, dtype=self.dtype)
    self.to_code = _dense(c.quantizer.input_dim, self.dtype)

  def __call__(
    self,
    patches: Array,
    seen: Array,
    *,
    first: Array | int = 0,
    cache: nn.Cache | None = None,
  ) -> tuple[Array, nn.Cache | None]:
    """Encodes patches [B, T, P] of which `seen` [B, T] will be kept.

    Args:
      patches: of one or more blocks.
      seen: bool [B, T].
      first: see `Tower`.
      cache: see `Tower`.

    Returns:
      [B, T, .] and the cache.
    """
    masked, kept = self.kept()
    x = self.embed(patches.astype(self.dtype))
    x = x + jnp.where(seen[..., None], kept[None, None], masked[None, None])
    x, cache = self.tower(x, first=first, cache=cache)
    return self.to_code(x), cache


class Decoder(linen.Module):
  """Tokens to patches."""

  config: Any
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.from_code = _dense(c.width, self.dtype)
    self.tower = Tower(c, c.decoder_depth, dtype=self.dtype)
    self.to_patch = _dense(c.patch_size, self.dtype)

  def __call__(
    self,
    embeddings: Array,
    *,
    first: Array | int = 0,
    cache: nn.Cache | None = None,
  ) -> tuple[Array, nn.Cache | None]:
    """Decodes embeddings [B, T, Z], 0 where nothing was kept, to [B, T, P].

    Args:
      embeddings: of one or more blocks.
      first: see `Tower`.
      cache: see `Tower`.

    Returns:
      float32 in [-1, 1], and the cache.
    """
    x = self.from_code(embeddings.astype(self.dtype))
    x, cache = self.tower(x, first=first, cache=cache)
    return jnp.tanh(self.to_patch(x).astype(jnp.float32)), cache


class Tower(linen.Module):
  """A transformer in which a block sees itself and the blocks before."""

  config: Any
  depth: int
  dtype: Any = jnp.float32

  def setup(self):
    """Makes the parts."""
    c = self.config
    block = nn.BlockConfig(
      width=c.width,
      heads=c.heads,
      mlp_ratio=c.mlp_ratio,
      activation='swiglu',
      norm='rms',
      norm_eps=1e-5,
      bias='nowhere',
    )
    stack = nn.StackConfig(depth=self.depth, block=block)
    self.stack = nn.Stack(stack, dtype=self.dtype)
    self.norm = nn.RMSNorm(eps=1e-5, dtype=self.dtype)

  def __call__(
    self, x: Array, *, first: Array | int = 0, cache: nn.Cache | None = None
  ) -> tuple[Array, nn.Cache | None]:
    """Runs whole blocks.

    Args:
      x: [B, T, D].
      first: the number of their first block, from 0; may be traced.
      cache: of the blocks before, [L, B, A, S, E]; then x is one block. None if
        x is all there is.

    Returns:
      [B, T, D] and the cache with x.
    """
    slots, length = self.config.slots, x.shape[1]
    if cache is not None:
      level = jnp.arange(cache.k.shape[-2]) // slots
      mask = (level <= first)[None, None, None]
    elif length > slots:
      level = jnp.arange(length) // slots
      mask = (level[:, None] >= level[None])[None, None]
    else:
      mask = None
    start = first * slots
    x, cache = self.stack(
      x,
      mask=mask,
      rotation=_rotation(self.config, start + jnp.arange(length)),
      cache=cache,
      start=start,
    )
    return self.norm(x), cache


def _rotation(config: Any, positions: Array) -> nn.Rotation:
  """Rotary codes of slots [T], as the official float32 table has them.

  Positions reach 16,384 there, where a rate that is off by its last bit turns
  by another 1e-3: the rates are theirs to the bit.
  """
  size = config.width // config.heads
  part = np.arange(0, size, 2).astype(np.float32) / np.float32(size)
  rates = np.float32(1) / np.float32(config.theta) ** part
  angles = positions.astype(jnp.float32)[:, None] * jnp.asarray(rates)[None]
  return nn.Rotation(cos=jnp.cos(angles), sin=jnp.sin(angles))


def _dense(features: int, dtype: Any) -> linen.Dense:
  """A linear layer without a bias."""
  init = linen.initializers.normal(0.02)
  return linen.Dense(features, use_bias=False, dtype=dtype, kernel_init=init)
