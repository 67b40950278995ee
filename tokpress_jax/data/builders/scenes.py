"""`scenes`: drawings of a known number of shapes.

How complex an image is, is a fact here: 1 to 8 shapes (disc, square, triangle,
ring) of six colours on a plain ground, none touching another. The record holds
the number as `num_shapes`, and as the class.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw

from tokpress_jax.io import images

SIZE = 32
MOST = 8
SPLITS = {  # first seed, records
  'train': (0, 4096),
  'test': (1_000_000, 512),
  # For classifiers, which learn 4,096 by heart, and for measures whose standard
  # error is to be below 1%. No drawing is in two splits, but for `train`.
  'train_many': (0, 16_384),
  'test_many': (2_000_000, 2_048),
}
RADIUS = (2.5, 4.0)  # pixels
GAP = 2  # pixels between the circles around two shapes, at least
FINER = 8  # drawn at this multiple of SIZE, then averaged
COLOURS = (
  (230, 60, 60),
  (60, 190, 80),
  (70, 110, 240),
  (240, 200, 60),
  (200, 80, 220),
  (70, 210, 220),
)

DESCRIPTION = (
  f'{SIZE}x{SIZE} drawings of 1 to {MOST} separate shapes; the class is their '
  'number.'
)


class Scenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """The drawings as a TFDS builder."""

  VERSION = tfds.core.Version('1.1.0')
  # No checksums are read; TFDS's own look-up needs importlib_resources.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    names = [str(number + 1) for number in range(MOST)]
    return tfds.core.DatasetInfo(
      builder=self,
      description=DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(SIZE, SIZE, 3), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(names=names),
          'num_shapes': np.int64,
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {
      name: self._generate_examples(first, count)
      for name, (first, count) in SPLITS.items()
    }

  def _generate_examples(
    self, first: int, count: int
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in range(count):
      number = index % MOST + 1
      png = images.encode_png(draw_scene(number, seed=first + index))
      yield (
        index,
        {
          'image': io.BytesIO(png),
          'label': number - 1,
          'num_shapes': number,
        },
      )


def draw_scene(number: int, *, seed: int) -> np.ndarray:
  """Draws one scene.

  Args:
    number: Number of shapes, 1 to MOST.
    seed: Of NumPy's RandomState.

  Returns:
    uint8 `[SIZE, SIZE, 3]`.
  """
  random = np.random.RandomState(seed)
  ground = (int(random.randint(20, 70)),) * 3
  image = Image.new('RGB', (SIZE * FINER, SIZE * FINER), ground)
  pen = ImageDraw.Draw(image)
  for x, y, radius in place(number, random):
    colour = COLOURS[random.randint(len(COLOURS))]
    shape = SHAPES[random.randint(len(SHAPES))]
    shape(pen, x * FINER, y * FINER, radius * FINER, colour, ground)
  return np.asarray(image.reduce(FINER))


def place(
  number: int, random: np.random.RandomState
) -> list[tuple[float, float, float]]:
  """Draws circles (x, y, radius) inside the image, GAP apart or more."""
  circles: list[tuple[float, float, float]] = []
  while len(circles) < number:
    for _ in range(100):
      radius = random.uniform(*RADIUS)
      x, y = random.uniform(radius, SIZE - radius, size=2)
      if all(
        math.hypot(x - other[0], y - other[1]) > radius + other[2] + GAP
        for other in circles
      ):
        circles.append((x, y, radius))
        break
    else:
      circles.clear()  # crowded: begin again
  return circles


def _disc(pen: Any, x: float, y: float, r: float, colour: Any, _: Any) -> None:
  pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _square(
  pen: Any, x: float, y: float, r: float, colour: Any, _: Any
) -> None:
  half = r / math.sqrt(2)
  pen.rectangle((x - half, y - half, x + half, y + half), fill=colour)


def _triangle(
  pen: Any, x: float, y: float, r: float, colour: Any, _: Any
) -> None:
  pen.regular_polygon((x, y, r), 3, fill=colour)


def _ring(
  pen: Any, x: float, y: float, r: float, colour: Any, ground: Any
) -> None:
  pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
  pen.ellipse((x - r / 2, y - r / 2, x + r / 2, y + r / 2), fill=ground)


SHAPES = (_disc, _square, _triangle, _ring)
