"""Generators of a row of codes: their configs, and the frame of their drawing.

A method gives the training pass and `draw_row`, which is `slots.draw_slots` or
one of `refine.py` over its network.

Dimension letters: B batch, N tokens, n of them that are drawn, M tokens of a
text, F features of one.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import flax.linen as linen
import jax
import jax.numpy as jnp

from tokpress_jax import errors
from tokpress_jax.generators import base, sampling
from tokpress_jax.generators.condition import Text

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowConfig(base.GeneratorConfig):
  """Of a generator that predicts a row of codes.

  Attributes:
    tokens: N, the longest row.
    prefixes: the lengths that decode, rising up to N; () for every length.
  """

  tokens: int = 256
  prefixes: tuple[int, ...] = ()

  def __post_init__(self):
    if self.tokens < 1:
      raise errors.UserError(f'tokens must be at least 1, got {self.tokens}')
    rising = list(self.prefixes) == sorted(set(self.prefixes))
    if self.prefixes and (not rising or self.prefixes[-1] != self.tokens):
      raise errors.UserError(
        f'prefixes must rise up to the {self.tokens} tokens, got '
        f'{self.prefixes}'
      )

  @property
  def boundaries(self) -> tuple[int, ...]:
    """The prefixes."""
    return self.prefixes or tuple(range(1, self.tokens + 1))

  def fit_to(self, tokenizer: Any) -> RowConfig:
    """See `GeneratorConfig`."""
    if tokenizer.quantizer.num_codes != 1:
      raise errors.UserError(
        'this generator predicts one code per token, its tokenizer has '
        f'{tokenizer.quantizer.num_codes}'
      )
    tokens, bounds = tokenizer.num_tokens, tuple(tokenizer.boundaries)
    return dataclasses.replace(
      self,
      codebook_size=tokenizer.codebook_size,
      tokens=tokens,
      prefixes=() if bounds == tuple(range(1, tokens + 1)) else bounds,
    )

  def check_length(self, length: int) -> None:
    """Raises ValueError for more codes than there are tokens."""
    if length > self.tokens:
      raise ValueError(
        f'{length} codes do not fit a generator of {self.tokens} tokens'
      )

  def train_inputs(
    self,
    codes: Array,
    tokenizer: base.Tokenizing,
    rng: Array,
    *,
    step: Array | None = None,
  ) -> Any:
    """The codes themselves."""
    del tokenizer, rng, step
    return codes[..., 0]

  def example_inputs(self) -> tuple[Any, Any]:
    """See `GeneratorConfig`."""
    return jnp.zeros((1, self.tokens), jnp.int32), jnp.zeros((1,), jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextRowConfig(RowConfig):
  """Of a generator that predicts a row of codes under a text.

  `class_dropout` is the share of texts dropped in training, and `num_classes`
  must be 0.

  Attributes:
    text_features: F.
  """

  reads_text: ClassVar[bool] = True

  num_classes: int = 0
  text_features: int = 768

  def __post_init__(self):
    super().__post_init__()
    if self.num_classes:
      raise errors.UserError(
        'this generator draws texts, not classes: num_classes is 0, got '
        f'{self.num_classes}; for classes take a config that reads them, such '
        'as NextTokenConfig'
      )

  def check_condition(self, condition: Any) -> Text:
    """See `GeneratorConfig`; a `Text`."""
    if not isinstance(condition, Text):
      raise errors.UserError(
        'this generator draws texts: give the features of a text encoder as '
        f'generators.text(...) in place of labels, got '
        f'{type(condition).__name__}'
      )
    condition.check(self.text_features)
    return condition

  def with_null(self, condition: Text) -> Text:
    """See `GeneratorConfig`."""
    return condition.with_null()

  def example_inputs(self) -> tuple[Any, Any]:
    """See `GeneratorConfig`."""
    codes, _ = super().example_inputs()
    whole = jnp.zeros((1, self.text_features))
    text = Text(
      features=whole[:, None],
      pooled=whole,
      null_features=whole[:, None],
      null_pooled=whole,
      score=jnp.zeros((1,)),
    )
    return codes, text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """What is to be drawn.

  Attributes:
    batch: B.
    length: n.
    rng: a typed key.
    sampler: how.
    forced: int32 [B, N] codes to keep, -1 where one is to be drawn; or None.
  """

  batch: int
  length: int
  rng: Array
  sampler: sampling.Sampler
  forced: Array | None


class RowGenerator(linen.Module):
  """Predicts a row of codes; a method adds `__call__` and `draw_row`."""

  config: Any
  dtype: Any = jnp.float32

  def sample_codes(
    self,
    condition: Any,
    *,
    rng: Array,
    sampler: sampling.Sampler,
    tokenizer: Any = None,
    num_tokens: int | None = None,
    forced: Array | None = None,
  ) -> base.Drawn:
    """Draws tokens; see `drawing.sample`.

    Args:
      condition: labels, int [B]; a `Text` of B rows of one that reads texts.
      rng: a typed key.
      sampler: how they are drawn, and in how many steps where that is free.
      tokenizer: not read.
      num_tokens: how many; N if None.
      forced: int32 [B, N] codes to keep, -1 where one is to be drawn.

    Returns:
      Codes [B, num_tokens], or embeddings [B, num_tokens, C].

    Raises:
      UserError: for forced codes where there are none.
    """
    del tokenizer
    row = Row(
      batch=jax.tree.leaves(condition)[0].shape[0],
      length=num_tokens or self.config.tokens,
      rng=rng,
      sampler=sampler,
      forced=forced,
    )
    if sampler.guidance is not None:
      condition = self.config.with_null(condition)
    return self.draw_row(condition, row)

  def draw_row(self, condition: Any, row: Row) -> base.Drawn:
    """Draws tokens.

    Args:
      condition: of B rows; with guidance of 2 B, the second half of which is
        unconditional.
      row: what is to be drawn.

    Returns:
      Codes [B, n], or embeddings [B, n, C].
    """
    raise NotImplementedError
