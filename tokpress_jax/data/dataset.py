"""What a data set is: records that can be read in any order.

H, W are an image's height and width, C its channels, S the side of the square
that a model sees.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.transforms import EvalTransform, TrainTransform
from tokpress_jax.io import images
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.words import WordCodec

TrainFunction = Callable[[np.ndarray, np.random.Generator], np.ndarray]
EvalFunction = Callable[[np.ndarray, int], np.ndarray]


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
    codec: What makes codes of the images' texts; None if they have none.
    splits: Every split of the data set with its number of records.
    directory: Where the files lie.
    description: A paragraph for people; hold-outs are named here.
    tokens: What the codes are, if the records are codes and no images.
  """

  name: str
  split: str
  num_records: int
  image_size: int | None
  channels: Literal[1, 3]
  num_classes: int
  class_names: tuple[str, ...] = ()
  codec: WordCodec | None = None
  splits: tuple[tuple[str, int], ...] = ()
  directory: str = ''
  description: str = ''
  tokens: Header | None = None


class Record(NamedTuple):
  """What a data set holds of one image.

  Attributes:
    encoded: An image file, a path or tokens; see `Dataset.decode`.
    label: Its class, -1 if it has none.
    text: What it shows; empty if the data set's `info` has no codec.
  """

  encoded: Any
  label: int
  text: str = ''


class Dataset(abc.ABC):
  """A random-access sequence of images, or of their codes, with labels.

  Attributes:
    key: What a record holds: `image` or `codes`.
    info: What the records are.
  """

  key: ClassVar[str] = 'image'
  info: DatasetInfo

  @abc.abstractmethod
  def read(self, index: int) -> Record:
    """Returns a record, not yet decoded."""

  @abc.abstractmethod
  def where(self, index: int) -> str:
    """Names the file and the record, for messages."""

  def decode(self, encoded: Any, index: int) -> np.ndarray:
    """Decodes what `read` gave: uint8 `[H, W, C]` at its own size."""
    return images.load_image(
      encoded, channels=self.info.channels, name=self.where(index)
    )

  def transforms(
    self, config: DataConfig
  ) -> tuple[TrainFunction, EvalFunction]:
    """Returns how a decoded record becomes one that a batch may hold.

    Args:
      config: The fit policy and the augmentations.

    Returns:
      Functions of what `decode` gave and of a source of randomness (training)
      or the record's number (evaluation), to an array like `blank`.
    """
    size = self._size()
    return TrainTransform(config, size), EvalTransform(config, size)

  def blank(self) -> np.ndarray:
    """Returns what stands for an image, or for codes, where there are none."""
    size = self._size()
    return np.zeros((size, size, self.info.channels), np.uint8)

  def _size(self) -> int:
    if self.info.image_size is None:
      raise DataError(
        f'The images of {self.info.name} are not square or not of one size: '
        'set data.image_size (and data.fit: crop, pad, resize or tile).'
      )
    return self.info.image_size

  def __len__(self) -> int:
    """Returns the number of records."""
    return self.info.num_records

  def __getitem__(self, index: int) -> dict[str, Any]:
    """Decodes one record.

    Args:
      index: Record number, from 0.

    Returns:
      `image` uint8 `[H, W, C]` at its own size (of tokens: `codes`, see
      `data.token_source`), `label` int32, `index` int64.

    Raises:
      IndexError: If there is no such record.
      UserError: If it is damaged; the message names file and record.
    """
    index = int(index)
    if not 0 <= index < len(self):
      raise IndexError(
        f'{self.info.name} split {self.info.split!r} has {len(self)} '
        f'records, 0 to {len(self) - 1}; record {index} was asked for.'
      )
    record = self.read(index)
    element = {
      self.key: self.decode(record.encoded, index),
      'label': np.int32(record.label),
      'index': np.int64(index),
    }
    if self.info.codec is not None:
      element['text'] = self.info.codec.encode([record.text])[0]
    return element

  def nothing(self) -> dict[str, Any]:
    """Returns what stands in a row of a batch that holds no record."""
    element = {
      self.key: self.blank(),
      'label': np.int32(-1),
      'index': np.int64(-1),
    }
    if self.info.codec is not None:
      element['text'] = np.zeros(self.info.codec.length, np.int32)
    return element


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
  elif config.name == 'tokens':
    from tokpress_jax.data.token_source import TokenDataset

    dataset = TokenDataset(config, split)
  else:
    from tokpress_jax.data.tfds_source import TfdsDataset

    dataset = TfdsDataset(config, split)
  if not len(dataset):
    raise DataError(
      f'Split {split!r} of {config.name} has no records. Choose another '
      'split, or add images.'
    )
  return dataset
