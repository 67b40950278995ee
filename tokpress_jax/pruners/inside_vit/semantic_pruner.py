"""Semantic tokens as a pruner: a ViT's later layers run on them alone (STViT).

Chang et al., "Making vision transformers efficient from a token sparsification
view" (2023, arXiv:2303.08685); `semantic_tokens` has the blocks. There is no
official code of plain ViTs: how a class token goes along is ours.

Dimension letters: N token slots, K kept slots.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, mergers, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.pruners.inside_vit.semantic_tokens import (
  SemanticConfig,
  SemanticTokens,
)
from tokpress_jax.pruners.window_grids import membership
from tokpress_jax.types import Reduction, Signals, Tokens


class SemanticPruner(nn.Module):
  """Semantic tokens in place of a ViT's, for all layers after.

  Protected tokens stay in front and as they are. What else travels with the
  tokens moves by what was pooled where, so masses add up and `unmerge` spreads
  semantic tokens over the grid. The paper's layers do not weigh tokens by mass:
  run a host with `proportional=False`. In a plan it stands with its variables:
  `('block_3.after_mlp', pruner.bind(variables))`.

  Attributes:
    config: see there; one window of the whole grid with 4 x 4 samples gives 16
      tokens, as many as the paper's DeiT has.
    positions: the position policy.
    dtype: of the matrix products.
  """

  config: SemanticConfig
  positions: positions_lib.Policy = 'mean'
  dtype: Any = jnp.float32

  needs: ClassVar[frozenset[str]] = frozenset()

  def setup(self):
    """Makes the parts."""
    self.generate = SemanticTokens(self.config, dtype=self.dtype)

  def plan(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> Reduction:
    """Says what is pooled where; see `pruners.Pruner.plan`.

    Args:
      tokens: N slots: the protected ones, then a grid in raster order.
      signals: not read.
      state: not read.

    Returns:
      From N to K slots: the protected tokens, then semantic ones in raster
      order, whose representative is the middle of what is pooled. They are
      valid in rows whose whole grid is.

    Raises:
      UserError: if the tokens are broken, or no such grid.
    """
    del state
    base.check(tokens, Signals() if signals is None else signals, self.needs)
    c = self.config
    batch, slots = tokens.valid.shape
    start = tokens.num_protected
    count = c.grid[0] * c.grid[1]
    if slots - start != count:
      raise UserError(
        f'a grid of {c.grid} has {count} tokens, and {slots - start} '
        f'were given beside {start} protected ones; set grid to their rows and '
        'columns, and prune after this, not before'
      )
    part = membership(c.grid, window=c.window, samples=c.samples)
    order = np.cumsum(part > 0, axis=1)  # the middle one of an odd number
    middle = np.argmax(order > order[:, -1:] // 2, axis=1) + start
    weight = np.pad(part, ((0, 0), (start, 0)))
    rows = lambda a: jnp.broadcast_to(jnp.asarray(a)[None], (batch, *a.shape))
    whole = (tokens.valid & ~tokens.protected)[:, start:].all(axis=1)
    result = mergers.beside_protected(
      tokens,
      rows(weight),
      index=rows(middle.astype(np.int32)),
      valid=jnp.broadcast_to(whole[:, None], (batch, len(part))),
    )
    return positions_lib.place(tokens.positions, result, policy=self.positions)

  def __call__(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies; the features are the two blocks'."""
    result = self.plan(tokens, signals, state)
    out = reduction.reduce_tokens(tokens, result)
    x, start = tokens.features, tokens.num_protected
    grid = x[:, start:].reshape(x.shape[0], *self.config.grid, x.shape[-1])
    y = self.generate(grid).reshape(x.shape[0], -1, x.shape[-1])
    y = jnp.where(out.valid[:, start:, None], y, 0)
    y = jnp.concatenate([out.features[:, :start], y], axis=1)
    return dataclasses.replace(out, features=y), result
