"""HICom's global compressor: learned queries that look at a whole video.

See `hicom`. With 'direct' guidance, which the published scripts ask for, all
queries are the text, and all tokens one and the same.

Dimension letters: B batch, T frames, H rows and W columns, N = T H W tokens, K
queries, D features, F features out.
"""

from __future__ import annotations

from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from tokpress_jax.pruners.compressors import base, parts, refusals
from tokpress_jax.pruners.compressors.hicom import Grid, HICom, Kind
from tokpress_jax.types import Array


class HIComGlobal(HICom):
  """Learned queries of a whole video; the sizes are the released model's.

  Fields beside `HICom`'s, of which `adapt` may name 'g', the text.

  Attributes:
    queries: K.
    guide: see `hicom`.
  """

  adaptable: ClassVar[str] = 'g'

  queries: int = 32
  guide: Kind = 'coarse'

  @nn.compact
  @refusals.refusing
  def __call__(
    self,
    x: Array,
    text: Array | None = None,
    *,
    text_valid: Array | None = None,
    mask: Array | None = None,
    logit_scale: Array | None = None,
  ) -> Array:
    """Makes tokens.

    Args:
      x: [B, N, D].
      text: see `hicom.Guide`.
      text_valid: see `hicom.Guide`.
      mask: bool [B, N], tokens that are there.
      logit_scale: see `parts.Attend`.

    Returns:
      [B, K, F].

    Raises:
      UserError: if x is not the grid, or the text does not fit the guide.
    """
    self.check(x, mask)
    query = self.param(
      'query', nn.initializers.zeros, (self.queries, self.width)
    )
    query = jnp.broadcast_to(query[None], (len(x), *query.shape)).astype(
      self.dtype
    )
    query = self.guided(query, text, text_valid)
    x = x + jnp.asarray(video_codes(self.grid, self.width), x.dtype)[None]
    y = parts.Attend(self.heads, dtype=self.dtype, name='attn')(
      query, x, x, mask=mask, logit_scale=logit_scale
    )
    return self.read_out(query + y.astype(query.dtype))


HIComGlobalConfig = base.config_of(HIComGlobal)


def video_codes(grid: Grid, width: int) -> np.ndarray:
  """Sin-cos codes of time, row and column, added up: float32 [N, D].

  Sines and cosines take turns over the features, and all axes have the same.

  Args:
    grid: (T, H, W).
    width: D.
  """
  rates = 10_000.0 ** -(2 * (np.arange(width) // 2) / width)
  total = np.zeros((*grid, width))
  for axis, length in enumerate(grid):
    angle = np.arange(length)[:, None] * rates
    angle[:, 1::2] += np.pi / 2  # a cosine
    shape = [1, 1, 1, width]
    shape[axis] = length
    total += np.sin(angle).reshape(shape)
  return total.reshape(-1, width).astype(np.float32)
