"""What a data set is: records that can be read in any order.

H, W are an image's height and width, C its channels.
"""

import abc
import dataclasses
from typing import Any, Literal

import numpy as np

from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.io import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetInfo:
  """What a model needs to know about its images.

  Attributes:
    name: The data set's name.
    split: The split's name.
    num_records: Images in the split.
    image_size: Side of the square images in a batch; None if the data set's
      own images are not square or not of one size and the config sets none.
    channels: 1 or 3.
    num_classes: Number of classes; 0 if the images have no labels.
    class_names: One name per class, or empty.
    splits: Every split of the data set with its number of records.
    directory: Where the files lie.
    description: A paragraph for people; hold-outs are named here.
  """

  name: str
  split: str
  num_records: int
  image_size: int | None
  channels: Literal[1, 3]
  num_classes: int
  class_names: tuple[str, ...] = ()
  splits: tuple[tuple[str, int], ...] = ()
  directory: str = ''
  description: str = ''


class Dataset(abc.ABC):
  """A random-access sequence of images with labels.

  Attributes:
    info: What the images are.
  """

  info: DatasetInfo

  @abc.abstractmethod
  def read(self, index: int) -> tuple[Any, int]:
    """Returns a record's undecoded image and its label (-1 if it has none)."""

  @abc.abstractmethod
  def where(self, index: int) -> str:
    """Names the file and the record, for messages."""

  def __len__(self) -> int:
    """Returns the number of records."""
    return self.info.num_records

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Decodes one record.

    Args:
      index: Record number, from 0.

    Returns:
      `image` uint8 `[H, W, C]` at its own size, `label` int32, `index` int64.

    Raises:
      IndexError: If there is no such record.
      ImageError: If its image is damaged; the message names file and record.
    """
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(
        f'{self.info.name} split {self.info.split!r} has {len(self)} '
        f'records, 0 to {len(self) - 1}; record {index} was asked for.'
      )
    encoded, label = self.read(index)
    image = images.load_image(
      encoded, channels=self.info.channels, name=self.where(index)
    )
    return {
      'image': image,
      'label': np.int32(label),
      'index': np.int64(index),
    }


def open_dataset(config: DataConfig, split: str | None = None) -> Dataset:
  """Opens a data set by its config; the embedded ones prepare themselves.

  Args:
    config: Which data set, and where.
    split: A split's name; by default the training split.

  Returns:
    The records, at their own size. `info` describes the batches that `Stream`
    and `eval_batches` make of them.

  Raises:
    DataError: If the name or the split is unknown, or the data is not
      prepared; the message says what to run.
  """
  split = config.split if split is None else split
  if config.name == 'folder':
    from tokpress_jax.data.folder import FolderDataset

    dataset: Dataset = FolderDataset(config, split)
  else:
    from tokpress_jax.data.tfds_source import TfdsDataset

    dataset = TfdsDataset(config, split)
  if not len(dataset):
    raise DataError(
      f'Split {split!r} of {config.name} has no records. Choose another '
      'split, or add images.'
    )
  return dataset
