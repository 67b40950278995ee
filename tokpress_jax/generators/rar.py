"""Random-order autoregression: raster order at last, any order at first.

RAR (Yu et al., "Randomized Autoregressive Visual Generation", arXiv
2411.00776). A causal transformer over a row of codes is trained on random
orders, ever fewer of them, until only the raster order is left, in which it
samples. Since the next token may stand anywhere, each input also tells the
position of the token that it predicts. Composed of parts:

  order       `random` in training, `raster` in sampling
  visibility  causal over the order
  inputs      shifted tokens after a start and the class, each with its own
              position and its target's
  commit      `append`
  head        categorical, modulated by the class and the place in the order

The official code also drops attention weights and an MLP's hidden features in
training; here each branch's output is dropped.

Dimension letters: B batch, N tokens, D model features, V codes, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as linen
import jax
import jax.numpy as jnp
from flax import struct

from tokpress_jax import errors, nn
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

# The start and the class stand before the tokens.
PREFIX = 2


@struct.dataclass
class Ranked:
  """A row of codes and the order in which they are predicted.

  Attributes:
    codes: int32 [B, N] by position.
    rank: int32 [B, N] by position: how many are predicted before it.
  """

  codes: Array
  rank: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RARConfig(rows.RowConfig):
  """A causal generator that has learned many orders.

  Attributes:
    anneal: the training steps between which the share of rows in a random order
      falls from 1 to 0 (section 3.2; in the paper from epoch 200 to 300 of 400,
      at 2,048 images a step). (0, 0) trains in raster order alone.
  """

  anneal: tuple[int, int] = (125_000, 187_500)

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.anneal[0] <= self.anneal[1]:
      raise errors.UserError(
        'anneal is the first and the last step of a fall, as (125000, 187500); '
        f'got {self.anneal}'
      )

  @property
  def block(self) -> nn.BlockConfig:
    """The transformer block."""
    return nn.BlockConfig(
      width=self.width,
      heads=self.heads,
      mlp_ratio=self.mlp_ratio,
      qk_norm='layer',
      modulation='block',
      gate_init=0.0,
      dropout=self.dropout,
      drop_path=self.drop_path,
    )

  def random_share(self, step: Array | int) -> Array:
    """The share of rows in a random order at a training step, float32."""
    first, last = self.anneal
    left = (last - jnp.asarray(step, jnp.float32)) / max(last - first, 1)
    return jnp.clip(left, 0.0, 1.0)

  def train_inputs(
    self,
    codes: Array,
    tokenizer: base.Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Ranked:
    """The codes with an order for each row.

    Args:
      codes: int32 [B, N, 1].
      tokenizer: not read.
      rng: a typed key, for which rows are permuted and how.
      step: of training; None for raster order, in which it samples.

    Returns:
      The codes, by position still, and their ranks.
    """
    del tokenizer
    codes = codes[..., 0]
    batch, length = codes.shape
    raster = jnp.broadcast_to(orders.raster(length).rank, codes.shape)
    if step is None:
      return Ranked(codes=codes, rank=raster)
    which_rng, order_rng = jax.random.split(rng)
    which = jax.random.uniform(which_rng, (batch, 1)) < self.random_share(step)
    drawn = orders.random(order_rng, batch, (1,) * length)
    return Ranked(codes=codes, rank=jnp.where(which, drawn.rank, raster))

  def example_inputs(self) -> tuple[Any, Array]:
    """See `GeneratorConfig`."""
    codes, labels = super().example_inputs()
    rank = jnp.arange(self.tokens, dtype=jnp.int32)[None]
    return Ranked(codes=codes, rank=rank), labels

  def build(self, *, dtype: Any = jnp.float32) -> RAR:
    """Makes the module."""
    return RAR(self, dtype=dtype)


class RAR(rows.RowGenerator):
  """Predicts a row of codes in any order, one after another."""

  config: RARConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    table = lambda n: nn.LearnedPositions(n, c.width, 0.02, dtype=self.dtype)
    self.class_embed = condition.ClassEmbedding(
      c.num_classes, c.width, c.class_dropout, dtype=self.dtype
    )
    self.token_embed = linen.Embed(
      c.codebook_size,
      c.width,
      dtype=self.dtype,
      embedding_init=linen.initializers.truncated_normal(0.02),
    )
    self.start = table(1)
    self.positions = table(PREFIX + c.tokens)
    self.targets = table(c.tokens)
    # Of each input in the order: the start, the class, all tokens but the last.
    self.times = table(1 + c.tokens)
    self.stack = nn.Stack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, dtype=self.dtype
    )

  def __call__(
    self, ranked: Ranked, labels: Array, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all tokens at once, teacher-forced.

    Each code is predicted from the class, its position and the codes of lower
    ranks.

    Args:
      ranked: n codes a row and the order of each row; n at most N.
      labels: int [B] in 0 ... K; K is no class.
      deterministic: if False, labels and branches are dropped with the rng
        'dropout'.

    Returns:
      float32 logits [B, n, V], by position as the codes are.

    Raises:
      ValueError: if there are more than N codes.
    """
    length = ranked.codes.shape[1]
    self.config.check_length(length)
    order = orders.Order(rank=ranked.rank, sizes=(1,) * length)
    place = jnp.asarray(order.permutation)  # [B, n], the position at each slot
    label = self.class_embed(labels, deterministic=deterministic)[:, None]
    x = inputs.shifted(
      self._class_token(label),
      self._tokens(order.to_sequence(ranked.codes), place),
    )
    x = inputs.started(self._start_token(label), x + self.targets(place))
    cond = label + self.times(slice(1 + length))[None]
    mask = visibility.causal_blocks(orders.raster(1 + length).rank)
    mask = jnp.asarray(mask)[None, None]
    x, _ = self.stack(x, cond=cond, mask=mask, deterministic=deterministic)
    return order.to_positions(self.head(x[:, 1:], cond[:, 1:]))

  def draw_row(self, condition: Array, row: rows.Row) -> base.Drawn:
    """See `RowGenerator`; in raster order."""
    label = self.class_embed(condition)[:, None]
    capacity = 1 + row.length
    _, cache = self.stack(
      self._start_token(label),
      cond=label + self.times(slice(1))[None],
      cache=self.stack.empty_cache(condition.shape[0], capacity),
      visible=1,
    )

    def predict(x, cache, i):
      slot = i + 1  # after the start
      cond = label + self.times(slot[None])[None]
      x, cache = self.stack(
        x + self.targets(i[None])[None],
        cond=cond,
        mask=slots.seen(capacity, slot),
        cache=cache,
        start=slot,
      )
      return self.head(x, cond), cache

    return slots.draw_slots(
      row,
      predict,
      lambda codes, i: self._tokens(codes, i[None, None]),
      start=self._class_token(label),
      cache=cache,
    )

  def _start_token(self, label: Array) -> Array:
    """The first input, [B, 1, D], the same for all labels [B, 1, D]."""
    start = self.start() + self.positions(slice(1))
    return jnp.broadcast_to(start[None], label.shape)

  def _class_token(self, label: Array) -> Array:
    """The second input [B, 1, D] of labels [B, 1, D], without its target."""
    return label + self.positions(slice(1, PREFIX))[None]

  def _tokens(self, codes: Array, place: Array) -> Array:
    """Inputs [B, n, D] of codes [B, n] at positions [B or 1, n]."""
    return self.token_embed(codes) + self.positions(PREFIX + place)
