"""What tokens cost, and what they buy.

Dimensions: B batch, H W rows and columns, C channels.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

Array = jax.Array


def bits_per_pixel(
  tokens: Array | float, bits_per_token: float, image_size: tuple[int, int]
) -> Array | float:
  """The rate of a code.

  Args:
    tokens: how many an image takes: a number, or lengths [B].
    bits_per_token: log2 of the codebook's size, times the codes per token.
    image_size: rows and columns.

  Returns:
    Bits per pixel, of the kind of `tokens`.
  """
  return tokens * bits_per_token / math.prod(image_size)


@dataclasses.dataclass(frozen=True)
class RatePoint:
  """The quality at one budget.

  Attributes:
    tokens: the budget.
    bits: per image.
    bits_per_pixel: bits over rows times columns.
    quality: the mean over images.
  """

  tokens: int
  bits: float
  bits_per_pixel: float
  quality: float


def rate_distortion(
  images: Array,
  reconstruct: Callable[[Array, int], Array],
  budgets: Iterable[int],
  *,
  bits_per_token: float,
  quality: Callable[[Array, Array], Array],
) -> list[RatePoint]:
  """Quality as a function of the tokens kept.

  Args:
    images: [B, H, W, C].
    reconstruct: (images, tokens) to images; tokens is a Python int.
    budgets: the numbers of tokens.
    bits_per_token: see `bits_per_pixel`.
    quality: (images, reconstructions) to [B], such as `psnr`.

  Returns:
    A point for each budget, in the given order.
  """
  size = (images.shape[1], images.shape[2])
  points = []
  for tokens in budgets:
    value = jnp.mean(quality(images, reconstruct(images, tokens)))
    rate = bits_per_pixel(tokens, bits_per_token, size)
    bits = tokens * bits_per_token
    points.append(RatePoint(tokens, float(bits), float(rate), float(value)))
  return points
