"""ElasticTok's searches for the length whose error is small enough.

Yan et al., "ElasticTok" (2024, arXiv 2410.08368), section 3.3: at inference a
block gets the fewest tokens whose mean squared error stays below a threshold,
found among lengths that are equally spaced in their logarithm, or by halving.
Both are `Quality` with a mean squared error; they run inside the program that
encodes, block after block.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import lengths as lengths_lib

Array = jax.Array


def minus_error(decoded: Array, images: Array) -> Array:
  """Mean squared error [B] of images in [-1, 1], below zero: more is better."""
  square = jnp.square(decoded.astype(jnp.float32) - images)
  return -jnp.mean(square, axis=tuple(range(1, images.ndim)))


def log_lengths(shortest: int, slots: int, *, count: int) -> tuple[int, ...]:
  """The lengths that the official linear search tries.

  Args:
    shortest: the first that its sampler is asked for.
    slots: the last.
    count: how many, equally spaced in the logarithm and cut to whole numbers.

  Returns:
    The tokens kept (one more each, see `kept_tokens`), rising, without doubles.
  """
  spaced = np.linspace(np.log2(shortest), np.log2(slots), count)
  asked = np.exp2(spaced).astype(int)
  return tuple(sorted({min(int(n) + 1, slots) for n in asked}))


@struct.dataclass(kw_only=True)
class ErrorSearch:
  """The fewest tokens whose error is small enough, or all of them.

  Attributes:
    threshold: mean squared error of pixels in [-1, 1]; may be traced, one
      number or float32 [B]. The paper has .003 and .015.
    search: 'linear' tries `count` lengths; 'binary' halves the range of all,
      which is exact where the error falls with the length. (The official one
      may end on a length that it just found too short.)
    count: see `search`; 100 is official.
  """

  threshold: float | Array
  search: Literal['linear', 'binary'] = struct.field(
    pytree_node=False, default='linear'
  )
  count: int = struct.field(pytree_node=False, default=100)

  def __post_init__(self):
    if self.search not in ('linear', 'binary'):
      raise UserError(f"search is 'linear' or 'binary', got {self.search!r}")
    if self.count < 1:
      raise UserError(f'count must be at least 1, got {self.count}')

  def lengths(self, coded: lengths_lib.Coded) -> Array:
    """Gives int32 [B]."""
    target = -jnp.asarray(self.threshold, jnp.float32)
    if self.search == 'binary':
      quality = lengths_lib.Quality(
        target=target, measure=minus_error, search='bisect', look=0
      )
      return quality.lengths(coded)
    bounds = coded.boundaries
    tried = log_lengths(bounds[0], bounds[-1], count=self.count)
    quality = lengths_lib.Quality(
      target=target, measure=minus_error, search='scan'
    )
    return quality.lengths(dataclasses.replace(coded, boundaries=tried))
