"""No bottleneck: continuous tokens as the encoder gives them.

Dimensions: D features.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from tokpress_jax.quantize import base
from tokpress_jax.quantize.gaussian import ContinuousConfig

Array = jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlainConfig(ContinuousConfig):
  """Continuous tokens without noise or loss.

  Attributes:
    dim: D.
  """

  dim: int = 12

  def build(self, *, dtype: Any = jnp.float32) -> 'PlainBottleneck':
    """The module."""
    del dtype
    return PlainBottleneck(self)


class PlainBottleneck(nn.Module):
  """Gives what it is given; it has no parameters.

  Attributes:
    config: the number of features.
  """

  config: PlainConfig

  def __call__(
    self, z: Array, *, mask: Array | None = None, rng: Array | None = None
  ) -> base.Quantized:
    """Passes z [..., D], zeros where the mask is False; `rng` is unused."""
    del rng
    base.check_features(z, self.config.dim, 'as many as the config says')
    return base.Quantized(
      codes=None, embeddings=base.masked(z, mask), losses={}
    )
