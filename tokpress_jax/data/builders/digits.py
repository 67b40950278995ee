"""`digits`: scikit-learn's scans of handwritten digits.

1,797 grey images of 8 x 8 pixels from 43 writers (E. Alpaydin and C. Kaynak,
Optical Recognition of Handwritten Digits, UCI, 1998; the part that ships with
scikit-learn). Pixels of 0..16 become uint8 by round(v * 255 / 16). Every class
gives the same share to each split.
"""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from tokpress_jax.data.config import DataError
from tokpress_jax.io import images

TEST_RECORDS = 297
SPLIT_SEED = 0


DESCRIPTION = (
  "8x8 scans of handwritten digits (scikit-learn's part of UCI optdigits), "
  f'split by class with seed {SPLIT_SEED}.'
)


class Digits(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
  """The digits as a TFDS builder."""

  VERSION = tfds.core.Version('1.0.0')
  # No checksums are read; TFDS's own look-up needs importlib_resources.
  code_path = None

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description=DESCRIPTION,
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
          'label': tfds.features.ClassLabel(num_classes=10),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
    del dl_manager
    try:
      from sklearn import datasets
    except ImportError as error:
      raise DataError(
        "The digits come from scikit-learn: pip install 'tokpress-jax[demo]'."
      ) from error
    digits = datasets.load_digits()
    pixels = np.rint(digits.images * 255 / 16).astype(np.uint8)
    test = stratified(digits.target, TEST_RECORDS, seed=SPLIT_SEED)
    return {
      'train': self._generate_examples(pixels, digits.target, ~test),
      'test': self._generate_examples(pixels, digits.target, test),
    }

  def _generate_examples(
    self, pixels: np.ndarray, labels: np.ndarray, chosen: np.ndarray
  ) -> Iterator[tuple[int, dict[str, Any]]]:
    for index in np.flatnonzero(chosen):
      png = images.encode_png(pixels[index][..., None])
      label = int(labels[index])
      yield int(index), {'image': io.BytesIO(png), 'label': label}


def stratified(labels: np.ndarray, count: int, *, seed: int) -> np.ndarray:
  """Chooses `count` records so that every class gives the same share.

  Args:
    labels: int `[N]`.
    count: How many to choose; the classes with the largest remainders round
      up.
    seed: Of NumPy's RandomState, whose stream is frozen for ever.

  Returns:
    bool `[N]`, True for the chosen.
  """
  classes, sizes = np.unique(labels, return_counts=True)
  shares = sizes * count / len(labels)
  quotas = np.floor(shares).astype(int)
  missing = count - quotas.sum()
  quotas[np.argsort(quotas - shares, kind='stable')[:missing]] += 1
  chosen = np.zeros(len(labels), bool)
  random = np.random.RandomState(seed)
  for label, quota in zip(classes, quotas, strict=True):
    members = np.flatnonzero(labels == label)
    chosen[random.permutation(members)[:quota]] = True
  return chosen
