"""MQT: a prefix of learned queries that look at an image once.

Hu et al., "Matryoshka Query Transformer for large vision-language models"
(2024, arXiv:2405.19315). Of 256 queries the first m are used, m any
number at inference and a random even one at each training step. Keys carry
position only, as in the official code: what a token holds is in the values.

Beyond it: any grid (its codes are resized to it), a mask, and a random m that
is traced, so that training compiles once: all queries are computed, those
beyond m are not valid.

Dimension letters: B batch, N tokens of a grid, K queries, D features, F
features out.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from tokpress_jax import arrays
from tokpress_jax.errors import UserError
from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.types import Array


def random_prefix(rng: Array, *, queries: int = 256, step: int = 2) -> Array:
  """Which queries a training step uses: the first m, m a multiple of `step`.

  Args:
    rng: of the step. The official code draws one m for a batch.
    queries: K.
    step: 2 as published; m is `step`, 2 `step`, ... K.

  Returns:
    bool [K].

  Raises:
    UserError: without a key, or if there are fewer queries than a step.
  """
  if not arrays.is_key(rng) or not 1 <= step <= queries:
    raise UserError(
      f'a prefix is drawn with a typed key, of a step of 1 to {queries}; got '
      f'rng {arrays.said(rng)} and step={step}'
    )
  number = step * jax.random.randint(rng, (), 1, queries // step + 1)
  return jnp.arange(queries) < number


class MQT(base.Compressor):
  """The resampler; the defaults are the released model's.

  Attributes:
    side: K is its square.
    width: D, of the tower's features.
    heads: of the attention.
    out: F, of the language model.
    grid: (H, W) of the image's tokens.
    dtype: of the matrix products.
  """

  side: int = 16
  width: int = 1024
  heads: int = 16
  out: int = 4096
  grid: tuple[int, int] = (24, 24)
  dtype: Any = jnp.float32

  @nn.compact
  @refusals.refusing
  def __call__(
    self, x: Array, *, count: int | None = None, mask: Array | None = None
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D].
      count: m, a static number of queries; all if None.
      mask: bool [B, N], the image's tokens that are there; all if None.

    Returns:
      [B, m, F]. Queries do not see each other: the first m of all are those of
      m alone.

    Raises:
      UserError: if x is not the grid, or there are not so many queries.
    """
    refusals.check_inputs(x, self.grid, width=self.width, mask=mask)
    square = (self.side, self.side)
    total = self.side**2
    count = total if count is None else count
    if not isinstance(count, int) or not 1 <= count <= total:
      raise UserError(
        f'there are 1 to {total} queries, got count={count!r}; give a static '
        'whole number'
      )
    norm = lambda name: parts.norm(self.dtype, name)
    query = self.param('query', parts.INIT, (total, self.width))
    codes = parts.codes(square, self.width)
    places = parts.resized_codes(codes, square, self.grid)
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      norm('norm_q')((query + codes)[None, :count]),
      norm('norm_k')(places[None]),
      norm('norm_v')(x),
      mask=mask,
    )
    return parts.dense(self.out, self.dtype, 'proj', bias=False)(y)


MQTConfig = base.config_of(MQT)
