"""The views of an image that are encoded once: fits, crops, mirrors.

H, W are an image's height and width, C its channels, S the side of a square, R
the number of squares (1 unless tiled).
"""

import dataclasses

import numpy as np

from tokpress_jax.data.config import DataError
from tokpress_jax.data.transforms import random_crop_box
from tokpress_jax.io import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
  """Makes every view of an image; the same whenever it is asked.

  Attributes:
    size: S.
    fit: How an image becomes square, see `io.images`.
    crops: Random squares of each image, instead of the fit; 0 for the fit.
    crop_min: Smallest side of a random crop, as a fraction of the shorter side.
    crop_max: Largest side.
    flip: Put after each view its mirror.
    seed: Of the crops.
  """

  size: int
  fit: images.Policy = 'crop'
  crops: int = 0
  crop_min: float = 0.8
  crop_max: float = 1.0
  flip: bool = False
  seed: int = 0

  def __post_init__(self) -> None:
    """Raises `DataError` if the crops cannot be made."""
    if self.crops < 0 or (self.crops and self.fit != 'crop'):
      raise DataError(
        f'crops={self.crops} with fit={self.fit!r}: give 0 or more, and '
        "fit='crop' if there are any."
      )
    if not 0 < self.crop_min <= self.crop_max <= 1:
      raise DataError(
        f'crop_min={self.crop_min} and crop_max={self.crop_max}: give '
        'fractions in (0, 1], the smaller one first.'
      )

  def __len__(self) -> int:
    """Returns the views of an image."""
    return max(self.crops, 1) * (2 if self.flip else 1)

  def __call__(
    self, image: np.ndarray, index: int
  ) -> list[tuple[np.ndarray, images.Placement]]:
    """Makes the views of one image.

    Args:
      image: uint8 `[H, W, C]`.
      index: Its number, on which its crops depend.

    Returns:
      For each view uint8 `[R, S, S, C]`, and where in the image it is (a
      mirror's place is that of its original).
    """
    found = self._crops(image, index) if self.crops else [self._fit(image)]
    if self.flip:
      both = lambda squares, place: (
        (squares, place),
        (squares[:, :, ::-1], place),
      )
      found = [view for one in found for view in both(*one)]
    return found

  def _fit(self, image: np.ndarray) -> tuple[np.ndarray, images.Placement]:
    return images.fit_image(image, self.size, policy=self.fit)

  def _crops(
    self, image: np.ndarray, index: int
  ) -> list[tuple[np.ndarray, images.Placement]]:
    rng = np.random.default_rng([self.seed, index])
    height, width = image.shape[:2]
    found = []
    for _ in range(self.crops):
      box = random_crop_box(
        (height, width), self.crop_min, rng, largest=self.crop_max
      )
      square = images.resize(images.cut(image, box), (self.size, self.size))
      place = images.Placement(
        policy='crop', original=(height, width), size=self.size, box=box
      )
      found.append((square[None], place))
    return found
