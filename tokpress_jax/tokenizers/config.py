"""What every tokenizer's config has.

Dimension letters: C channels, N token slots, Q codes per token.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar

import jax.numpy as jnp

from tokpress_jax import quantize

if TYPE_CHECKING:
  from tokpress_jax.tokenizers.base import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
  """What every tokenizer's config has; a method adds its own fields.

  Attributes:
    image_size: side of the square images, in pixels.
    channels: C.
    patch: side of a patch, in pixels.
  """

  family: ClassVar[str] = 'tokenizer'

  image_size: int = 256
  channels: int = 3
  patch: int = 16

  if TYPE_CHECKING:
    quantizer: Any  # Each method's own field, of its quantiser's config.

  def __post_init__(self):
    size = self.image_size
    if size < 1 or self.patch < 1 or size % self.patch:
      raise ValueError(
        f'image_size={size} is not divisible into patches of {self.patch} '
        'pixels; change image_size (data.image_size resizes the images) or '
        'patch'
      )

  @property
  def grid(self) -> int:
    """Patches along one side."""
    return self.image_size // self.patch

  @property
  def boundaries(self) -> tuple[int, ...]:
    """Legal lengths, rising; the last is the capacity N."""
    raise NotImplementedError

  @property
  def num_tokens(self) -> int:
    """N, the capacity."""
    return self.boundaries[-1]

  @property
  def condition_shape(self) -> tuple[int, ...] | None:
    """Shape of what the decoder reads beside an image's tokens, or None."""
    return None

  @property
  def continuous(self) -> bool:
    """Whether tokens are vectors (embeddings) and have no codes."""
    return isinstance(self.quantizer, quantize.ContinuousConfig)

  @property
  def nested(self) -> bool:
    """Whether a row cut short is what encoding the image so short gives."""
    return True

  @property
  def selects(self) -> bool:
    """Whether an image's tokens may come from any of the slots.

    They are then moved to the front, and `Encoded.positions` says from where.
    """
    return False

  @property
  def draws(self) -> bool:
    """Whether the decoder draws images: `decode` takes `rng` and `sampler`."""
    return False

  @property
  def codebook_size(self) -> int:
    """Values of one code."""
    return self.quantizer.codebook_size

  @property
  def bits_per_token(self) -> float:
    """Bits of one token at equal code lengths: Q log2(codebook size)."""
    return self.quantizer.num_codes * math.log2(self.codebook_size)

  def build(self, *, dtype: Any = jnp.float32) -> Tokenizer:
    """Makes the module; parameters are float32, matmuls run in `dtype`."""
    raise NotImplementedError
