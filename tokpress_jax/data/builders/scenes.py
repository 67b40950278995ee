"""`scenes`: drawings of a known number of shapes.

How complex an image is, is a fact here: 1 to 8 shapes (disc, square, triangle,
ring) of six colours on a plain ground, none touching another. The record holds
the number as `num_shapes`, and as the class, and a text that names all shapes,
as in "red disc, green ring". They come in a random order, which is the same
wherever the same shapes are: two drawings have the same text if and only if
they have the same shapes.
"""

import dataclasses
import io
import math
import types
import zlib
from collections.abc import Iterator, Sequence
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
COLOURS = {
  'red': (230, 60, 60),
  'green': (60, 190, 80),
  'blue': (70, 110, 240),
  'yellow': (240, 200, 60),
  'purple': (200, 80, 220),
  'cyan': (70, 210, 220),
}

DESCRIPTION = (
  f'{SIZE}x{SIZE} drawings of 1 to {MOST} separate shapes; the class is their '
  'number.'
)


class Scenes(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """The drawings as a TFDS builder."""

  VERSION = tfds.core.Version('1.2.0')
  RELEASE_NOTES = types.MappingProxyType({'1.2.0': 'The same images, named.'})
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
          'text': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
      metadata=tfds.core.MetadataDict(
        words=[*COLOURS, *SHAPES], text_length=2 * MOST + 2
      ),
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
      shapes, ground = plan_scene(number, seed=first + index)
      png = images.encode_png(_draw(shapes, ground))
      yield (
        index,
        {
          'image': io.BytesIO(png),
          'label': number - 1,
          'num_shapes': number,
          'text': name_shapes(shapes),
        },
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
  """One shape of a scene.

  Attributes:
    colour: Its name, of COLOURS.
    kind: Its name, of SHAPES.
    circle: x, y and radius of the circle around it, in pixels.
  """

  colour: str
  kind: str
  circle: tuple[float, float, float]


def draw_scene(number: int, *, seed: int) -> np.ndarray:
  """Draws one scene.

  Args:
    number: Number of shapes, 1 to MOST.
    seed: Of NumPy's RandomState.

  Returns:
    uint8 `[SIZE, SIZE, 3]`.
  """
  return _draw(*plan_scene(number, seed=seed))


def plan_scene(number: int, *, seed: int) -> tuple[list[Shape], int]:
  """Says what a scene holds, and how light its ground is (0 to 255)."""
  random = np.random.RandomState(seed)
  ground = int(random.randint(20, 70))
  shapes = []
  for circle in place(number, random):
    colour = tuple(COLOURS)[random.randint(len(COLOURS))]
    kind = tuple(SHAPES)[random.randint(len(SHAPES))]
    shapes.append(Shape(colour=colour, kind=kind, circle=circle))
  return shapes, ground


def name_shapes(shapes: Sequence[Shape]) -> str:
  """Names shapes in an order that depends on which there are."""
  names = sorted(f'{shape.colour} {shape.kind}' for shape in shapes)
  random = np.random.RandomState(zlib.crc32(', '.join(names).encode()))
  return ', '.join(names[i] for i in random.permutation(len(names)))


def _draw(shapes: Sequence[Shape], ground: int) -> np.ndarray:
  grey = (ground,) * 3
  image = Image.new('RGB', (SIZE * FINER, SIZE * FINER), grey)
  pen = ImageDraw.Draw(image)
  for shape in shapes:
    x, y, radius = (FINER * value for value in shape.circle)
    SHAPES[shape.kind](pen, x, y, radius, COLOURS[shape.colour], grey)
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


SHAPES = {
  'disc': _disc,
  'square': _square,
  'triangle': _triangle,
  'ring': _ring,
}
