"""`photos`: random crops of the photographs that scikit-* packages ship.

Only files inside the installed scikit-image and scikit-learn are read; nothing
is downloaded. The split is by photograph: no crop of a held-out photograph is
ever trained on. The two motorcycles are a stereo pair and stay together. A
record's text says what the whole photograph shows, be it in the crop or not.
"""

import importlib.util
import io
import pathlib
import types
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tokpress_jax.data.config import DataError
from tokpress_jax.io import images

SIZE = 64
CROPS = 256  # per photograph
LARGEST = 256  # a crop's side before it is resized, from SIZE pixels up

# (file inside the package's folder of images), by split.
TRAIN = (
  'skimage/data/astronaut.png',
  'skimage/data/brick.png',
  'skimage/data/cell.png',
  'skimage/data/clock_motion.png',
  'skimage/data/coffee.png',
  'skimage/data/coins.png',
  'skimage/data/grass.png',
  'skimage/data/hubble_deep_field.jpg',
  'skimage/data/ihc.png',
  'skimage/data/moon.png',
  'skimage/data/motorcycle_left.png',
  'skimage/data/motorcycle_right.png',
  'skimage/data/page.png',
  'skimage/data/retina.jpg',
  'skimage/data/rocket.jpg',
  'sklearn/datasets/images/china.jpg',
)
TEST = (
  'skimage/data/camera.png',
  'skimage/data/chelsea.png',
  'skimage/data/gravel.png',
  'sklearn/datasets/images/flower.jpg',
)
NAMES = tuple(sorted(pathlib.Path(file).stem for file in TRAIN + TEST))
HELD_OUT = tuple(pathlib.Path(file).stem for file in TEST)
TEXTS = types.MappingProxyType(
  {
    'astronaut': 'an astronaut in an orange suit',
    'brick': 'a brick wall',
    'camera': 'a man with a camera',
    'cell': 'a cell under a microscope',
    'chelsea': 'a cat',
    'china': 'a temple',
    'clock_motion': 'a clock',
    'coffee': 'a cup of coffee',
    'coins': 'old coins',
    'flower': 'a flower',
    'grass': 'grass',
    'gravel': 'gravel',
    'hubble_deep_field': 'galaxies in the sky',
    'ihc': 'tissue under a microscope',
    'moon': 'the moon',
    'motorcycle_left': 'a motorcycle',
    'motorcycle_right': 'a motorcycle',
    'page': 'a printed page',
    'retina': 'the retina of an eye',
    'rocket': 'a rocket',
  }
)
WORDS = tuple(sorted(set(' '.join(TEXTS.values()).split())))

DESCRIPTION = (
  f'{CROPS} random crops of each of {len(NAMES)} photographs (scikit-image, '
  'scikit-learn); the class is the photograph. Held out: '
  f'{", ".join(HELD_OUT)}.'
)


class Photos(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """The crops as a TFDS builder."""

  VERSION = tfds.core.Version('1.1.0')
  RELEASE_NOTES = types.MappingProxyType({'1.1.0': 'The same crops, named.'})
  # No checksums are read; TFDS's own look-up needs importlib_resources.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(
            shape=(SIZE, SIZE, 3), encoding_format='png'
          ),
          'label': tfds.features.ClassLabel(names=NAMES),
          'text': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
      metadata=tfds.core.MetadataDict(
        words=list(WORDS),
        text_length=max(len(text.split()) for text in TEXTS.values()) + 2,
      ),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    return {
      'train': self._generate_examples(TRAIN),
      'test': self._generate_examples(TEST),
    }

  def _generate_examples(
    self, files: tuple[str, ...]
  ) -> Iterator[tuple[str, dict[str, Any]]]:
    for file in files:
      name = pathlib.Path(file).stem
      pixels = images.load_image(_shipped(file), channels=3)
      random = np.random.RandomState(zlib.crc32(name.encode()))
      for number in range(CROPS):
        png = images.encode_png(random_crop(pixels, random))
        yield (
          f'{name}_{number}',
          {'image': io.BytesIO(png), 'label': name, 'text': TEXTS[name]},
        )


def random_crop(
  pixels: np.ndarray, random: np.random.RandomState
) -> np.ndarray:
  """Cuts a random square and resizes it to SIZE.

  Args:
    pixels: uint8 `[H, W, 3]`.
    random: Draws the side (SIZE to LARGEST, as far as it fits) and the place.

  Returns:
    uint8 `[SIZE, SIZE, 3]`.
  """
  height, width = pixels.shape[:2]
  side = random.randint(SIZE, min(height, width, LARGEST) + 1)
  top = random.randint(height - side + 1)
  left = random.randint(width - side + 1)
  return images.resize(
    images.cut(pixels, (top, left, side, side)), (SIZE, SIZE)
  )


def whole() -> dict[str, pathlib.Path]:
  """All photographs, whole: name to file.

  Raises:
    DataError: if the packages that ship them are not installed.
  """
  return {pathlib.Path(file).stem: _shipped(file) for file in TRAIN + TEST}


def held_out() -> dict[str, pathlib.Path]:
  """The photographs of the test split, whole: name to file.

  Raises:
    DataError: if the packages that ship them are not installed.
  """
  return {pathlib.Path(file).stem: _shipped(file) for file in TEST}


def _shipped(file: str) -> pathlib.Path:
  """Finds a file of an installed package without importing the package."""
  package, _, rest = file.partition('/')
  spec = importlib.util.find_spec(package)
  path = pathlib.Path((spec and spec.origin) or '').parent / rest
  if not path.is_file():
    raise DataError(
      f'The photograph {file} is not in the installed packages. Install '
      "scikit-image and scikit-learn: pip install 'tokpress-jax[demo]'."
    )
  return path
