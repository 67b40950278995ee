"""FlexAR: a text or a class to FlexTok's ordered tokens, one by one.

Bachmann et al., "FlexTok: Resampling Images into 1D Token Sequences of Flexible
Length" (2025, arXiv 2502.13967), section 4.3; weights were published with
"(1D) Ordered Tokens Enable Efficient Test-Time Search" (2026, arXiv
2604.15453). A causal transformer over a row of codes reads a text by
cross-attention, every prefix of what it draws is an image. Composed of parts:

  order       `raster`, a learned start
  visibility  causal, and the text
  inputs      shifted tokens with learned positions
  commit      `append`
  head        categorical

The models of classes have no cross-attention: they are `NextTokenConfig`s,
whose table of classes holds the start with each class added (`flexar_keys`).
Their official sampler writes class 0 over "no class" after the first step, so
that it guides away from class 0; here no class stays no class.

A text's features are those of a text encoder that is not part of this library
(FLAN-T5-XL's last layer, 2,048 features a token, padded): give them as
`generators.text(features, valid=..., null_features=..., null_valid=...)`, the
empty text's as the null. Nothing is read of `pooled` and `score`.

Dimension letters: B batch, N tokens, M tokens of a text, F features of one, D
model features, V codes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import errors, nn
from tokpress_jax.generators import (
  base,
  heads,
  inputs,
  rows,
  slots,
  visibility,
)
from tokpress_jax.generators import order as orders
from tokpress_jax.generators.condition import Text

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexARConfig(rows.TextRowConfig, slots.CausalConfig):
  """A causal generator of ordered tokens under a text."""

  codebook_size: int = 64_000
  text_features: int = 2048
  width: int = 768
  depth: int = 12
  heads: int = 12
  activation: nn.Activation = 'swiglu'
  mlp_ratio: float = 8 / 3
  norm: Literal['layer', 'rms'] = 'layer'
  bias: Literal['all', 'none', 'nowhere'] = 'nowhere'
  qk_norm: Literal['layer', 'rms', 'standard'] | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.dropout or self.drop_path:
      raise errors.UserError(
        'this generator drops texts alone: dropout and drop_path are 0, got '
        f'{self.dropout} and {self.drop_path}'
      )

  def build(self, *, dtype: Any = jnp.float32) -> FlexAR:
    """Makes the module."""
    return FlexAR(self, dtype=dtype)


class FlexAR(rows.RowGenerator):
  """Predicts a row of codes from left to right, and from a text."""

  config: FlexARConfig

  def setup(self):
    """Makes the parts."""
    c = self.config
    dense = lambda n: linen.Dense(n, use_bias=False, dtype=self.dtype)
    self.token_embed = linen.Embed(
      c.codebook_size,
      c.width,
      dtype=self.dtype,
      embedding_init=linen.initializers.truncated_normal((3 * c.width) ** -0.5),
    )
    self.start = nn.LearnedPositions(1, c.width, dtype=self.dtype)
    self.place = nn.LearnedPositions(c.tokens, c.width, dtype=self.dtype)
    self.text_hidden, self.text_out = dense(c.text_features), dense(c.width)
    self.stack = nn.CrossStack(
      nn.StackConfig(depth=c.depth, block=c.block, remat=c.remat),
      dtype=self.dtype,
    )
    self.head = heads.CategoricalHead(
      c.codebook_size, c.width, norm=c.norm, eps=c.norm_eps, dtype=self.dtype
    )

  def __call__(
    self, codes: Array, text: Text, *, deterministic: bool = True
  ) -> Array:
    """The training pass: all tokens at once, teacher-forced.

    Args:
      codes: int32 [B, n], n at most N.
      text: of B rows.
      deterministic: if False, texts are dropped with the rng 'dropout'.

    Returns:
      float32 logits [B, n, V].

    Raises:
      ValueError: if there are more than N codes.
    """
    c = self.config
    batch, length = codes.shape
    c.check_length(length)
    if not deterministic and c.class_dropout:
      text = text.dropped(self.make_rng('dropout'), c.class_dropout)
    x = inputs.shifted(self._starts(batch), self.token_embed(codes))
    x = x + self.place(slice(length))[None]
    mask = visibility.causal_blocks(orders.raster(length).rank)[None, None]
    x, _ = self.stack(x, self.read(text), memory_mask=text.valid, mask=mask)
    return self.head(x)

  def read(self, text: Text) -> Any:
    """Keys and values of texts in every layer, see `nn.CrossStack.memory`."""
    x = self.text_hidden(text.features.astype(self.dtype))
    return self.stack.memory(self.text_out(linen.gelu(x, approximate=True)))

  def draw_row(self, condition: Text, row: rows.Row) -> base.Drawn:
    """See `RowGenerator`."""
    read = self.read(condition)

    def predict(x, cache, i):
      x, cache = self.stack(
        x + self.place(i[None])[None],
        read,
        memory_mask=condition.valid,
        mask=slots.seen(row.length, i),
        cache=cache,
        start=i,
      )
      return self.head(x), cache

    return slots.draw_slots(
      row,
      predict,
      lambda codes, _: self.token_embed(codes),
      start=self._starts(condition.batch),
      cache=self.stack.empty_cache(condition.batch, row.length),
    )

  def _starts(self, batch: int) -> Array:
    """The learned start for each row, [B, 1, D]."""
    return jnp.broadcast_to(self.start()[None], (batch, 1, self.config.width))
