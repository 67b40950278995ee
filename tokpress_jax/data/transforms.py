"""From a record at its own size to the square a model sees.

H, W are an image's height and width, C its channels, S the square's side.
"""

import dataclasses
import math

import numpy as np

from tokpress_jax.data.config import DataConfig
from tokpress_jax.io import images


@dataclasses.dataclass(frozen=True)
class TrainTransform:
  """Fits one image and augments it; random only through `rng`.

  Attributes:
    config: The fit policy and the augmentations.
    size: S.
  """

  config: DataConfig
  size: int

  def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Maps uint8 `[H, W, C]` to uint8 `[S, S, C]`."""
    config = self.config
    if config.random_crop:
      box = random_crop_box(
        image.shape[:2], config.crop_min, rng, largest=config.crop_max
      )
      image = images.resize(images.cut(image, box), (self.size, self.size))
    else:
      tiles, _ = images.fit_image(image, self.size, policy=config.fit)
      image = tiles[rng.integers(len(tiles)) if len(tiles) > 1 else 0]
    if config.flip and rng.random() < 0.5:
      image = image[:, ::-1]
    return np.ascontiguousarray(image)


@dataclasses.dataclass(frozen=True)
class EvalTransform:
  """Fits one image; nothing is random.

  Attributes:
    config: The fit policy.
    size: S.
  """

  config: DataConfig
  size: int

  def __call__(self, image: np.ndarray, index: int) -> np.ndarray:
    """Maps uint8 `[H, W, C]` of record `index` to uint8 `[S, S, C]`."""
    tiles, _ = images.fit_image(image, self.size, policy=self.config.fit)
    return np.ascontiguousarray(tiles[int(index) % len(tiles)])


def random_crop_box(
  shape: tuple[int, ...],
  smallest: float,
  rng: np.random.Generator,
  *,
  largest: float = 1.0,
) -> tuple[int, int, int, int]:
  """Draws a square crop, as the ADM code base does (Dhariwal and Nichol 2021).

  With smallest = largest = 1 / r it is the crop of those who resize the shorter
  side to r times the square's and cut the square out anywhere.

  Args:
    shape: (H, W).
    smallest: Smallest side, as a fraction of min(H, W).
    rng: Source of randomness.
    largest: Largest side, as a fraction.

  Returns:
    (top, left, side, side), the side uniform from smallest * min(H, W) to
    largest * min(H, W) and the place uniform.
  """
  height, width = shape
  shorter = min(height, width)
  slack = 1e-9 * shorter  # 8 / 9 of 288 is 256, whatever the rounding
  least = math.ceil(smallest * shorter - slack)
  most = max(least, math.floor(largest * shorter + slack))
  side = int(rng.integers(least, most + 1))
  top = int(rng.integers(height - side + 1))
  left = int(rng.integers(width - side + 1))
  return top, left, side, side
