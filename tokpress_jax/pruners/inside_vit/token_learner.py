"""TokenLearner: each new token is a learned map over the old ones.

Ryoo et al., "TokenLearner: what can 8 learned tokens do for images and videos?"
(2021, arXiv:2106.11297), section 2 and version 1.1 of the official code, put in
the middle of a transformer or at three quarters of its depth. A map is a row of
the matrix of a reduction, so what else travels with the tokens moves by it too;
`TokenFuser` spreads what became of the new tokens over the old ones.

Dimension letters: B batch, N token slots, S learned tokens, D features, H rows
and W columns of a grid.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, mergers, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Array, Reduction, Signals, Tokens


class LearnedMaps(nn.Module):
  """What both versions share; a version writes `maps`.

  Attributes:
    tokens: S; protected tokens stay beside them.
    positions: the position policy; 'mean' is the mean over the map.
    dtype: of the matrix products.
  """

  tokens: int
  positions: positions_lib.Policy = 'mean'
  dtype: Any = jnp.float32

  needs: ClassVar[frozenset[str]] = frozenset()

  def maps(self, x: Array, free: Array) -> Array:
    """Weights float32 [B, S, N] of tokens [B, N, D], 0 where not `free`."""
    raise NotImplementedError

  @nn.compact
  def plan(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> Reduction:
    """Draws up the matrix; see `pruners.Pruner.plan`.

    Args:
      tokens: N slots.
      signals: not read.
      state: not read.

    Returns:
      From N to K slots: the protected tokens, then S maps, whose representative
      is the token of most weight. Rows without free tokens have no maps.

    Raises:
      UserError: if S is below 1, or the tokens are broken.
    """
    del state
    few = f'there is at least 1 learned token, got tokens={self.tokens}'
    base.check(
      tokens,
      Signals() if signals is None else signals,
      self.needs,
      problems=lambda _: [few] if self.tokens < 1 else [],
    )
    free = tokens.valid & ~tokens.protected
    weight = self.maps(tokens.features, free)
    some = jnp.broadcast_to(free.any(axis=1)[:, None], weight.shape[:2])
    at = jnp.argmax(weight, axis=2).astype(jnp.int32)
    result = mergers.beside_protected(tokens, weight, index=at, valid=some)
    return positions_lib.place(tokens.positions, result, policy=self.positions)

  def __call__(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies: features are weighted sums, as in the paper."""
    result = self.plan(tokens, signals, state)
    return reduction.reduce_tokens(tokens, result, mode='sum'), result


class TokenLearner(LearnedMaps):
  """Version 1.1: maps by an MLP, a softmax over the tokens.

  Attributes:
    bottleneck: width of the MLP.
  """

  bottleneck: int = 64

  @nn.compact
  def maps(self, x: Array, free: Array) -> Array:
    """See `LearnedMaps`."""
    logits = mask_mlp(x, self.bottleneck, self.tokens, self.dtype)
    logits = jnp.where(free[..., None], logits, -jnp.inf)
    some = free.any(axis=1)[:, None, None]
    weight = jax.nn.softmax(jnp.where(some, logits, 0), axis=1)
    return jnp.where(free[..., None], weight, 0).swapaxes(1, 2)


class TokenLearnerConv(LearnedMaps):
  """The paper's version: maps by four convolutions and a sigmoid.

  Attributes:
    grid: (H, W) of the unprotected tokens, which stand in raster order behind
      the protected ones.
    pooling: 'sum' as in the code's default, or 'mean'.
  """

  grid: tuple[int, int] = (14, 14)
  pooling: Literal['sum', 'mean'] = 'sum'

  @nn.compact
  def maps(self, x: Array, free: Array) -> Array:
    """See `LearnedMaps`."""
    count = self.grid[0] * self.grid[1]
    start = x.shape[1] - count
    if start < 0:
      raise UserError(
        f'a grid of {self.grid} has {count} tokens, and {x.shape[1]} were '
        'given; set `grid` to the rows and columns of the tokens'
      )
    y = norm('norm')(x.astype(jnp.float32))
    y = jnp.where(free[..., None], y, 0)[:, start:]
    y = y.reshape(x.shape[0], *self.grid, -1)
    for i in range(4):
      conv = nn.Conv(
        self.tokens, (3, 3), use_bias=False, dtype=self.dtype, name=f'conv_{i}'
      )
      y = conv(y if i == 0 else nn.gelu(y))
    weight = nn.sigmoid(y.astype(jnp.float32)).reshape(x.shape[0], count, -1)
    weight = jnp.pad(weight, ((0, 0), (start, 0), (0, 0)))
    weight = jnp.where(free[..., None], weight, 0).swapaxes(1, 2)
    if self.pooling == 'mean':
      number = jnp.maximum(free.sum(axis=1), 1)[:, None, None]
      weight = weight / number
    return weight


class TokenFuser(nn.Module):
  """Spreads learned tokens over the tokens that they were learned from.

  Attributes:
    bottleneck: width of the MLP that says how much of each goes where.
    normalise: norms of the learned tokens, needed where they are sums.
    dtype: of the matrix products.
  """

  bottleneck: int = 64
  normalise: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, learned: Array, original: Array) -> Array:
    """Gives what is added to the old tokens.

    Args:
      learned: [B, S, D].
      original: [B, N, D], the tokens that they were learned from.

    Returns:
      [B, N, D]; 0 at first, as the layer that mixes the S tokens starts there.
    """
    slots = learned.shape[1]
    y = norm('norm_in')(learned) if self.normalise else learned
    mix = nn.Dense(
      slots, kernel_init=nn.initializers.zeros, dtype=self.dtype, name='mix'
    )
    y = mix(y.swapaxes(1, 2)).swapaxes(1, 2)
    y = norm('norm_mixed')(y) if self.normalise else y
    logits = mask_mlp(original, self.bottleneck, slots, self.dtype)
    out = jnp.einsum('bns,bsd->bnd', nn.sigmoid(logits), y.astype(jnp.float32))
    return out.astype(original.dtype)


def norm(name: str) -> nn.LayerNorm:
  """The layer norm of the official code."""
  return nn.LayerNorm(epsilon=1e-6, dtype=jnp.float32, name=name)


def mask_mlp(x: Array, width: int, tokens: int, dtype: Any) -> Array:
  """Norm and MLP from tokens [B, N, D] to float32 [B, N, S], in a module."""
  y = norm('norm')(x.astype(jnp.float32))
  y = nn.gelu(nn.Dense(width, dtype=dtype, name='mask_in')(y))
  return nn.Dense(tokens, dtype=dtype, name='mask_out')(y).astype(jnp.float32)
