"""Drawing a row of codes slot by slot, each from those before it.

Dimension letters: B batch, N tokens, n of them that are drawn, D model
features, V codes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.generators import base, loops, rows, sampling

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalConfig(rows.RowConfig):
  """Of a generator whose causal transformer may be of several makes.

  Attributes:
    activation: of the MLP, see `nn.BlockConfig`.
    norm: 'rms' or 'layer'.
    norm_eps: of the norms.
    norm_affine: whether the blocks' norms have parameters.
    bias: of the projections and the MLP, see `nn.BlockConfig`.
    qk_norm: of queries and keys, or None.
  """

  activation: nn.Activation = 'gelu'
  norm: Literal['layer', 'rms'] = 'rms'
  norm_eps: float = 1e-6
  norm_affine: bool = True
  bias: Literal['all', 'qv', 'none', 'nowhere'] = 'none'
  qk_norm: Literal['l2', 'layer', 'rms', 'standard'] | None = None

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block."""
    return nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      activation=self.activation,
      norm=self.norm,
      norm_eps=self.norm_eps,
      norm_affine=self.norm_affine,
      bias=self.bias,
      qk_norm=self.qk_norm,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )


def seen(capacity: int, slot: Array) -> Array:
  """Who attends to a cache: its first slots up to one, bool [1, 1, 1, n]."""
  return (jnp.arange(capacity) <= slot)[None, None, None]


def draw_slots(
  row: rows.Row,
  predict: Callable[[Array, Any, Array], tuple[Array, Any]],
  embed: Callable[[Array, Array], Array],
  *,
  start: Array,
  cache: Any,
) -> base.Drawn:
  """Draws the codes of a row from left to right.

  Args:
    row: what is to be drawn.
    predict: (inputs [B, 1, D], cache, slot int []) to the logits [B, 1, V] of
      the slot and the cache after; with guidance of 2 B rows, the second half
      of which is unconditional.
    embed: (codes int32 [B, 1], their slot int []) to the inputs [B, 1, D] of
      the next.
    start: inputs of the first slot, of as many rows as `predict` has.
    cache: pytree of keys and values before the first slot.

  Returns:
    Codes [B, n].
  """
  guidance = row.sampler.weights(row.length)

  def step(x, cache, block):
    i = block.index
    logits, cache = predict(x, cache, i)
    if guidance is not None:
      logits = sampling.guide_halves(logits, guidance[i])
    noise = sampling.token_gumbel(row.rng, row.batch, i[None], logits.shape[-1])
    codes = row.sampler.draw(logits, noise)
    codes = base.forced_codes(row.forced, codes, i)
    x = embed(codes, i)
    x = x if guidance is None else jnp.concatenate([x, x])
    return x, cache, codes

  loop = loops.BlockLoop(sizes=(1,) * row.length, unroll=False)
  _, _, codes = loop(step, start, cache)  # [n, B, 1]
  return base.Drawn(codes=codes[..., 0].T)
