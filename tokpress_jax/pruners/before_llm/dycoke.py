"""DyCoke, first stage: temporal merging of frames (arXiv:2411.15024).

The second stage prunes a key-value cache.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from tokpress_jax.errors import UserError
from tokpress_jax.nn.norms import l2_normalize
from tokpress_jax.pruners import base, budgets, frames, selectors
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.types import Ratio, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class DyCoke(base.Pruner):
  """Of every second frame only what changed stays, then of every fourth.

  Frames 1, 3, 5, ... keep the tokens that are least like the same places of the
  frame before; frames 2, 6, 10, ... those least like the frame two before, but
  for the last four frames (as in the code). What leaves is dropped: its
  likeness stands for it. It stands after the projector and pooling, a row being
  a video (`frames.frames_of`); shorter videos are padded by whole frames, at
  one end.

  The official code loses the last frame of an odd number of them, and does not
  run with fewer than five; here a frame without a partner is kept whole. It
  also puts a frame's tokens by rising likeness; here they stay as they stood.

  Attributes:
    budget: a `Ratio`, of each frame that is compared; others are kept whole.
  """

  budget: budgets.Budget = Ratio(ratio=0.3, rounding='floor')
  positions: positions_lib.Policy = 'compact'

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.budget, Ratio):
      raise UserError(
        'DyCoke keeps a fraction of each compared frame: give Ratio(ratio=...),'
        f' got {self.budget!r}'
      )

  def decide(self, tokens: Tokens, signals: Signals, state: Any) -> Reduction:
    """Compares frames one and two apart."""
    number, size = frames.frames_of(tokens)
    there = frames.there(tokens.valid, frames=number)
    at = jnp.cumsum(there, axis=1) - 1  # [B, T]
    total = there.sum(axis=1, keepdims=True)
    odd, second = at % 2 == 1, (at % 4 == 2) & (at < total - 2)

    x = l2_normalize(tokens.features.astype(jnp.float32))
    x = x.reshape(x.shape[0], number, size, -1)
    alike = lambda back: jnp.sum(x * jnp.roll(x, back, axis=1), axis=-1)
    score = jnp.where(odd[..., None], -alike(1), -alike(2))

    kept = budgets.resolve(self.budget, size, size)
    group = jnp.repeat(jnp.arange(number), size)[None]
    chosen, _ = selectors.top_grouped(
      score.reshape(tokens.valid.shape),
      group=jnp.broadcast_to(group, tokens.valid.shape),
      counts=jnp.where(odd | second, kept, size),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    compared = sum(
      n % 2 == 1 or (n % 4 == 2 and n < number - 2) for n in range(number)
    )
    capacity = compared * kept + (number - compared) * size
    return selectors.selection(
      tokens, chosen, capacity=capacity + tokens.num_protected
    )
