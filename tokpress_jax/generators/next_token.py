"""Next-token generator over a row of tokens, any prefix of which is an image.

A GPT over a 1-D tokenizer's codes (LlamaGen's layout, Sun et al., arXiv
2406.06525, section 3.2), composed of parts:

  order       `raster`, the class token as the given start
  visibility  causal
  inputs      shifted tokens
  commit      `append`
  head        categorical

Dimension letters: B batch, N tokens, D model features, E head features, V
codes, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import nn
from tokpress_jax.generators import (
  base,
  condition,
  heads,
  inputs,
  rows,
  slots,
  visibility,
)
from tokpress_jax.generators import order as orders

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextTokenConfig(slots.CausalConfig):
  """A causal generator, one token a step.

  Attributes:
    positions: 'learned' table, or 'rotary'.
  """

  positions: Literal['learned', 'rotary'] = 'rotary'

  def build(self, *, dtype: Any = jnp.float32) -> NextTokenGenerator:
    """Makes the module."""
    return NextTokenGenerator(self, dtype=dtype)


class NextTokenGenerator(rows.RowGenerator):
  """Predicts a row of codes from left to right."""

  config: NextTokenConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    self.class_embed = condition.ClassEmbedding(
      c.num_classes, c.width, c.class_dropout, dtype=self.dtype
    )
    self.token_embed = linen.Embed(
      c.codebook_size,
      c.width,
      dtype=self.dtype,
      embedding_init=linen.initializers.truncated_normal((3 * c.width) ** -0.5),
    )
    if c.positions == 'learned':
      self.place = nn.LearnedPositions(c.tokens, c.width, dtype=self.dtype)
    self.stack = nn.Stack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, norm=c.norm, eps=c.norm_eps, dtype=self.dtype
    )

  def __call__(
    self, codes: Array, labels: Array, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all tokens at once, teacher-forced.

    Position i is predicted from the class and the codes before i, so whatever
    stands after an image's length changes nothing before it; mask its loss.

    Args:
      codes: int32 [B, n], n at most N.
      labels: int [B] in 0 ... K; K is no class.
      deterministic: if False, labels and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, n, V].

    Raises:
      ValueError: if there are more than N codes.
    """
    c = self.config
    length = codes.shape[1]
    c.check_length(length)
    start = self.class_embed(labels, deterministic=deterministic)[:, None]
    x = inputs.shifted(start, self.token_embed(codes))
    mask = visibility.causal_blocks(orders.raster(length).rank)[None, None]
    x, _ = self._run(
      x, jnp.arange(length), mask=mask, deterministic=deterministic
    )
    return self.head(x)

  def draw_row(self, condition: Array, row: rows.Row) -> base.Drawn:
    """See `RowGenerator`."""

    def predict(x, cache, i):
      mask = slots.seen(row.length, i)
      x, cache = self._run(x, i[None], mask=mask, cache=cache, start=i)
      return self.head(x), cache

    return slots.draw_slots(
      row,
      predict,
      lambda codes, _: self.token_embed(codes),
      start=self.class_embed(condition)[:, None],
      cache=self.stack.empty_cache(condition.shape[0], row.length),
    )

  def _run(self, x: Array, index: Array, **kwargs: Any) -> tuple[Array, Any]:
    """Adds the positions `index` [T] to x [B, T, D] and runs the stack."""
    c = self.config
    if c.positions == 'learned':
      return self.stack(x + self.place(index)[None], **kwargs)
    code = nn.rotation(index[:, None], c.block.attention.features)
    return self.stack(x, rotation=code, **kwargs)
