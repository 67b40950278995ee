"""What the configs of convolutional tokenizers share."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tokpress_jax import nn
from tokpress_jax.tokenizers import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvolutionalConfig(base.TokenizerConfig):
  """A tokenizer whose encoder and decoder are convolutions over levels.

  Attributes:
    width: channels at the highest resolution.
    multipliers: channels of each level over the width; `patch` must be 2 to the
      number of levels but one.
    blocks: residual blocks of an encoder level, and of a decoder level if the
      method does not add one.
    groups: of the group norms.
  """

  width: int = 128
  multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
  blocks: int = 2
  groups: int = 32

  def __post_init__(self):
    super().__post_init__()
    factor = self.network('none').factor
    if self.patch != factor:
      raise ValueError(
        f'{len(self.multipliers)} levels (multipliers) shrink an image by '
        f'{factor}, but patch is {self.patch}; change one of them'
      )

  def network(
    self, attention: Literal['lowest', 'middle', 'none'], *, more: int = 0
  ) -> nn.ConvConfig:
    """The convolutions, see `nn.ConvConfig`.

    Args:
      attention: where there is some.
      more: residual blocks a level beyond `blocks`.
    """
    return nn.ConvConfig(
      width=self.width,
      multipliers=self.multipliers,
      blocks=self.blocks + more,
      attention=attention,
      groups=self.groups,
    )
