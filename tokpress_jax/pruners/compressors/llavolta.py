"""LLaVolta: a language model trained on pooled visual tokens, then on all.

Chen et al., "Efficient large multi-modal models via visual context compression"
(2024, arXiv:2406.20092). Before some layer of the
language model the visual tokens of an image are averaged, every `stride`
neighbours of the row. Over training the stride falls and the layer rises, until
nothing is pooled: training is cheaper, inference is on all tokens.

The official code averages positions in half precision, where whole numbers
beyond 2,048 are lost, and cuts off the fraction: the mean of 0 to 7, 3.5,
becomes 3. That is `averaging='truncated'`; the default is the mean itself,
which rotary codes take as it is. What is left of an image that `stride` does
not divide is dropped there and is a shorter mean here.

Dimension letters: B batch, N token slots, K kept slots, P position axes.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import base, checks, reduction
from tokpress_jax.pruners import positions as positions_lib
from tokpress_jax.pruners.mergers.windows import windows
from tokpress_jax.types import VISION, Array, Reduction, Signals, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Curriculum:
  """Which stride is used where at a step; the defaults are the 4 stages.

  Attributes:
    strides: of each stage; 1 pools nothing.
    layers: of the language model, before which each stage pools; counted from
      0. -1 is before all, where the projector ends.
    until: the last step of each stage but the last.
  """

  strides: tuple[int, ...] = (8, 2, 2, 1)
  layers: tuple[int, ...] = (2, 2, 16, 0)
  until: tuple[int, ...] = (1300, 2600, 3900)

  def __post_init__(self):
    checks.refuse('this curriculum', checks.field_causes(self))
    stages = len(self.strides)
    same = len(self.layers) == stages == len(self.until) + 1
    if not same or list(self.until) != sorted(set(self.until)):
      raise UserError(
        f'{stages} strides need as many layers, and rising steps for all but '
        f'the last, got layers={self.layers} and until={self.until}'
      )
    if min(self.strides) < 1:
      raise UserError(f'strides are 1 or more, got {self.strides}')

  def at(self, step: int) -> tuple[int, int]:
    """The stride and the layer of a step, counted from 0.

    As the official code checks after a step whether the stage is over, a stage
    has one step more than its script says. It counts forward passes, so that
    accumulated gradients count as several steps.
    """
    if not isinstance(step, int | np.integer):
      raise UserError(f'a step is a static whole number, got {step!r}')
    stage = sum(step > last for last in self.until)
    return self.strides[stage], self.layers[stage]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LLaVolta:
  """Averages visual tokens in a row that has text as well.

  Attributes:
    stride: neighbours that become one.
    length: the most visual tokens of an image.
    images: the most images of a row.
    averaging: of positions, see the module.
  """

  stride: int = 8
  length: int = 576
  images: int = 1
  averaging: Literal['mean', 'truncated'] = 'mean'

  needs: ClassVar[base.Needs] = frozenset()
  ranges: ClassVar[checks.Ranges] = (
    ('stride', 1, None),
    ('length', 1, None),
    ('images', 1, None),
  )

  def __post_init__(self):
    checks.refuse('LLaVolta', checks.field_causes(self))

  def plan(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> Reduction:
    """Groups neighbours; see `pruners.Pruner.plan`.

    Args:
      tokens: N slots; visual ones are those of kind `VISION`, their image is
        their owner. Protected ones stay alone.
      signals: not read.
      state: not read.

    Returns:
      From N to K slots, text tokens as they are.

    Raises:
      UserError: if the row is shorter than its images.
    """
    del state
    base.check(tokens, Signals() if signals is None else signals, self.needs)
    slots, most = tokens.valid.shape[1], self.length * self.images
    if slots < most:
      raise UserError(
        f'a row of {slots} slots has no {self.images} images of {self.length} '
        'tokens; set images and length to what a row may have'
      )
    seen = tokens.valid & (tokens.kind == VISION) & ~tokens.protected
    apart = dataclasses.replace(tokens, protected=tokens.valid & ~seen)
    result = windows(
      apart,
      size=(self.stride,),
      capacity=slots - most + self.images * -(-self.length // self.stride),
      coordinates=_places(tokens, seen)[..., None],
    )
    if self.averaging == 'mean':
      return positions_lib.place(tokens.positions, result, policy='mean')
    placed = truncated_mean(tokens.positions, result, where=seen)
    return dataclasses.replace(result, positions=placed)

  def __call__(
    self, tokens: Tokens, signals: Signals | None = None, state: Any = None
  ) -> tuple[Tokens, Reduction]:
    """Plans and applies."""
    result = self.plan(tokens, signals, state)
    return reduction.reduce_tokens(tokens, result, mode='mean'), result


def truncated_mean(
  positions: Array, result: Reduction, *, where: Array
) -> Array:
  """The official means of positions: in float16, then without a fraction.

  Args:
    positions: [B, N, P].
    result: from N to K slots.
    where: bool [B, N], tokens whose positions are averaged; others keep theirs.

  Returns:
    [B, K, P] in the dtype of `positions`.
  """
  half = positions.astype(jnp.float16).astype(jnp.float32)
  mean = reduction.apply(result, half, mode='mean').astype(jnp.float16)
  kept = reduction.apply(result, positions)
  pooled = reduction.apply(result, where)[..., None]
  return jnp.where(pooled, jnp.trunc(mean).astype(kept.dtype), kept)


def _places(tokens: Tokens, seen: Array) -> Array:
  """The number of each visual token in its image: int32 [B, N]."""
  same = seen[:, None] & (tokens.owner[:, None] == tokens.owner[:, :, None])
  slots = jnp.arange(seen.shape[1])
  before = (slots[None] < slots[:, None])[None]
  return jnp.sum(same & before, axis=2, dtype=jnp.int32)
