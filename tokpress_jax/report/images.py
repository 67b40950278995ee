"""A data set's images in memory: what a report measures on.

Dimension letters: N images, H rows, W columns, C channels, L codes of
a text.
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
    train_texts: codes int32 [N, L]; None if the images have no texts.
    test_texts: int32 [M, L].
  """

  info: Any
  train: np.ndarray
  train_labels: np.ndarray
  test: np.ndarray
  test_labels: np.ndarray
  train_texts: np.ndarray | None = None
  test_texts: np.ndarray | None = None


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
  train = _read(config, config.split, max_train)
  test = _read(config, config.eval_split, max_test)
  return ImageSet(
    info=data.open_dataset(config).info,
    train=images_lib.to_float(train['image']),
    train_labels=train['label'],
    test=images_lib.to_float(test['image']),
    test_labels=test['label'],
    train_texts=train.get('text'),
    test_texts=test.get('text'),
  )


def _read(
  config: data.DataConfig, split: str, limit: int
) -> dict[str, np.ndarray]:
  parts, count = [], 0
  for batch in data.eval_batches(config, split=split, batch_size=256):
    valid = batch['valid']
    parts.append({name: x[valid] for name, x in batch.items()})
    count += int(valid.sum())
    if count >= limit:
      break
  return {
    name: np.concatenate([part[name] for part in parts])[:limit]
    for name in parts[0]
  }
