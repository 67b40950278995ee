"""TFDS directories with ArrayRecord files, read without TensorFlow."""

from tokpress_jax import errors
from tokpress_jax.data import storage
from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.dataset import Dataset, DatasetInfo, Record
from tokpress_jax.io.words import WordCodec


class TfdsDataset(Dataset):
  """One split of a prepared TFDS data set."""

  def __init__(self, config: DataConfig, split: str):
    """Opens a split.

    Args:
      config: The data set's name, directory, and feature names.
      split: A split of it, or a TFDS slice such as `train[:80%]`.

    Raises:
      DataError: If the data set, the split or a feature does not exist.
    """
    import tensorflow_datasets as tfds

    directory = storage.locate(config.name, config.data_dir)
    builder = tfds.builder_from_directory(str(directory))
    features = dict(builder.info.features.items())
    keys = [name for name in features if name != config.label_key]
    image = features.get(config.image_key)
    if not isinstance(image, tfds.features.Image):
      raise DataError(
        f'{config.name} has no image feature {config.image_key!r}. '
        f'{errors.did_you_mean(config.image_key, keys)} Set image_key.'
      )
    label = features.get(config.label_key)
    if not isinstance(label, tfds.features.ClassLabel):
      label = None
    try:
      self._source = builder.as_data_source(
        split,
        decoders={config.image_key: tfds.decode.SkipDecoding()},
      )
      instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
      known = list(builder.info.splits)
      base = split.partition('[')[0]
      reason = str(error) if base in known else errors.did_you_mean(base, known)
      raise DataError(
        f'{config.name} has no split {split!r}. {reason}'
      ) from error
    facts = builder.info.metadata or {}
    codec = None
    if config.text_key in features and 'words' in facts:
      words, length = tuple(facts['words']), int(facts['text_length'])
      codec = WordCodec(words=words, length=length)
    self._image_key = config.image_key
    self._text_key = config.text_key
    self._label_key = config.label_key if label else None
    self._shards = tuple(
      (str(part.filename), part.skip, part.take) for part in instructions
    )
    height, width, channels = image.shape
    square = height if height is not None and height == width else None
    self.info = DatasetInfo(
      name=config.name,
      split=split,
      num_records=len(self._source),
      image_size=config.image_size or square,
      channels=config.channels or (1 if channels == 1 else 3),
      num_classes=label.num_classes if label else 0,
      class_names=tuple(label.names) if label else (),
      codec=codec,
      splits=tuple(
        (name, part.num_examples) for name, part in builder.info.splits.items()
      ),
      directory=str(directory),
      description=' '.join((builder.info.description or '').split()),
    )

  def read(self, index: int) -> Record:
    """See the base class."""
    try:
      found = self._source[index]
    except Exception as error:  # ArrayRecord and protobuf raise their own.
      raise DataError(
        f'{self.where(index)} cannot be read: {error}. The file is probably '
        'truncated or damaged; prepare the data set again.'
      ) from error
    label = -1 if self._label_key is None else int(found[self._label_key])
    text = found[self._text_key].decode() if self.info.codec else ''
    return Record(found[self._image_key], label, text)

  def where(self, index: int) -> str:
    """See the base class."""
    for filename, skip, count in self._shards:
      if index < count:
        return f'{filename}, record {index + skip}'
      index -= count
    raise IndexError(index)
