"""A data set's images in memory: what a report measures on.

Dimension letters: N images, H rows, W columns, C channels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from tokpress_jax import data
from tokpress_jax.io import images as images_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageSet:
  """Training and test images.

  Attributes:
    info: of the training split.
    train: float32 [N, H, W, C] in [-1, 1].
    train_labels: int32 [N].
    test: float32 [M, H, W, C].
    test_labels: int32 [M].
  """

  info: Any
  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray


def image_set(
  config: data.DataConfig, *, max_train: int = 4096, max_test: int = 1024
) -> ImageSet:
  """Reads the first images of both splits, fitted as the config says.

  Args:
    config: the data of a run.
    max_train: most training images.
    max_test: most test images.

  Returns:
    The images.
  """
  train, train_labels = _read(config, config.split, max_train)
  test, test_labels = _read(config, config.eval_split, max_test)
  return ImageSet(
    info=data.open_dataset(config).info,
    train=train,
    train_labels=train_labels,
    test=test,
    test_labels=test_labels,
  )


def _read(
  config: data.DataConfig, split: str, limit: int
) -> tuple[np.ndarray, np.ndarray]:
  pixels, labels, count = [], [], 0
  for batch in data.eval_batches(config, split=split, batch_size=256):
    valid = batch['valid']
    pixels.append(batch['image'][valid])
    labels.append(batch['label'][valid])
    count += int(valid.sum())
    if count >= limit:
      break
  joined = np.concatenate(pixels)[:limit]
  return images_lib.to_float(joined), np.concatenate(labels)[:limit]
