"""FlexTok's two transformers, over patches and registers.

Bachmann et al., "FlexTok" (2025, arXiv 2502.13967), section 3; `flextok.py`
says what they are part of. `config` is a `FlexTokConfig`.

Dimension letters: B batch, N registers, P patches, H rows and W columns of the
map that flows, C its channels, D model features, F code features.
"""

from __future__ import annotations

from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import nn
from tokpress_jax.tokenizers import lengths as lengths_lib
from tokpress_jax.tokenizers.towers import TowerConfig

Array = jax.Array

_EPS = 1e-5  # of the norms


class Encoder(linen.Module):
  """A map to what the bottleneck quantises."""

  config: Any
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(self, x: Array) -> Array:
    """Maps [B, H, W, C] to [B, N, F]."""
    c, size = self.config, self.config.encoder
    dense = lambda n, name: linen.Dense(n, dtype=self.dtype, name=name)
    patches = _patches(dense(size.width, 'patch_embed'), x, c)
    registers = nn.LearnedPositions(
      c.tokens, size.width, dtype=self.dtype, name='registers'
    )()
    registers = jnp.broadcast_to(
      registers[None], (x.shape[0], *registers.shape)
    )
    row = jnp.concatenate([patches, registers], axis=1)
    mask = register_mask(patches.shape[1], c.tokens)
    row, _ = nn.Stack(_stack_of(size), dtype=self.dtype, name='stack')(
      row, mask=jnp.asarray(mask)
    )
    row = row[:, patches.shape[1] :]
    row = nn.LayerNorm(eps=_EPS, affine=False, dtype=self.dtype)(row)
    return dense(c.quantizer.dim, 'to_code')(row)


class Decoder(linen.Module):
  """The velocity of a noised map, given a time and registers."""

  config: Any
  dtype: Any = jnp.float32

  @linen.compact
  def __call__(
    self, noised: Array, t: Array, vectors: Array, length: Array, without: Array
  ) -> Array:
    """See `FlexTokTokenizer.velocity`."""
    c, width = self.config, self.config.decoder.width
    dense = lambda n, name: linen.Dense(n, dtype=self.dtype, name=name)
    table = lambda n, name: nn.LearnedPositions(
      n, width, dtype=self.dtype, name=name
    )()[None]
    # [B, N, D]
    registers = dense(width, 'from_code')(vectors.astype(self.dtype))
    registers = registers + table(c.tokens, 'positions')
    seen = lengths_lib.prefix_mask(length, c.tokens)[..., None]
    registers = jnp.where(seen, registers, table(1, 'mask_token'))
    null = jnp.zeros((1, 1, width), self.dtype)
    if c.null == 'learned':
      null = table(1, 'null')
    registers = jnp.where(without[:, None, None], null, registers)
    patches = _patches(dense(width, 'patch_embed'), noised, c)
    codes = nn.time_codes(t, 256, base=256.0, scale=1000 / c.max_timestep)
    time = linen.silu(dense(width, 'time1')(codes.astype(self.dtype)))
    time = dense(width, 'time2')(time)  # [B, D]
    count = patches.shape[1]
    stack = nn.Stack(
      _stack_of(c.decoder, (count, c.tokens), c.gate_init),
      dtype=self.dtype,
      name='stack',
    )
    row, _ = stack(jnp.concatenate([patches, registers], axis=1), cond=time)
    x = nn.ModulatedNorm(width, eps=_EPS, dtype=self.dtype, name='norm')(
      row[:, :count], time[:, None]
    )
    x = linen.Dense(
      c.map_patch**2 * c.map_shape[-1],
      kernel_init=linen.initializers.zeros,
      name='to_patch',
    )(x.astype(jnp.float32))
    side = c.grid
    return nn.unpatchify(x.reshape(len(x), side, side, -1), c.map_patch)


def _stack_of(
  tower: TowerConfig, streams: tuple[int, ...] = (), gate_init: float = 0.0
) -> nn.StackConfig:
  """The transformer of a tower.

  Args:
    tower: its size.
    streams: tokens of each kind, modulated by weights of their own; () for a
      transformer that is not modulated.
    gate_init: of the modulation, see `FlexTokConfig`.
  """
  # Gated, and as many weights as an MLP of four times the width.
  hidden = 8 * tower.width // 3
  block = nn.BlockConfig(
    width=tower.width,
    heads=tower.heads,
    mlp_ratio=hidden / tower.width,
    activation='swiglu',
    norm_eps=_EPS,
    norm_affine=False,
    bias='nowhere',
    qk_norm='standard',
    scale='mup',
    modulation='block' if streams else None,
    streams=streams,
    gate_init=gate_init,
  )
  return nn.StackConfig(depth=tower.depth, block=block)


def register_mask(patches: int, registers: int) -> np.ndarray:
  """Patches see all patches; a register sees them and those up to itself.

  Args:
    patches: P.
    registers: N.

  Returns:
    bool [P + N, P + N], rows are queries.
  """
  return nn.block_causal_mask((patches, *(1,) * registers))


def _patches(embed: linen.Dense, x: Array, config: Any) -> Array:
  """The patches of a map [B, H, W, C] with their places, [B, P, D]."""
  patches = nn.patchify(x.astype(embed.dtype), config.map_patch)
  rows, columns = patches.shape[1:3]
  patches = embed(patches.reshape(x.shape[0], rows * columns, -1))
  places = nn.sincos(nn.grid_positions(rows, columns), embed.features)
  return patches + places[None].astype(patches.dtype)
