"""What is trained on, and how it is read: the `data` part of a config."""

import dataclasses
from typing import Any, Literal

from tokpress_jax import errors
from tokpress_jax.io import images

OnError = Literal['raise', 'skip']


class DataError(errors.UserError):
  """A data set that cannot be used, with what to do about it."""


def _identity(default: Any) -> Any:
  """A field that changes what is trained on, so a resume must repeat it."""
  return dataclasses.field(default=default, metadata={'identity': True})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
  """A data set, the shape of its images, and how they are augmented.

  Attributes:
    name: `digits`, `photos` or `scenes` (they prepare themselves), any TFDS
      name such as `cifar10` or `imagenet_resized/64x64`, `folder`, or `tokens`:
      what `tokpress encode --data` wrote, for generators.
    split: The split that is trained on; TFDS slices (`train[:90%]`) work.
    eval_split: The split that is evaluated on.
    data_dir: Where data sets lie (or the folder of images, or of token files);
      by default `$TOKPRESS_DATA_DIR`, else `~/.cache/tokpress_jax`. A run that
      may move between machines leaves it out and sets the environment variable.
    image_size: Side of the square images that a model sees; None keeps the
      data set's own size, which must then be square and constant.
    channels: 1 (grey) or 3 (RGB); None keeps the data set's own.
    fit: How an image becomes square, see `tokpress_jax.io.images`. With
      `tile`, training draws one tile per visit and evaluation takes tile
      (record number mod number of tiles).
    flip: Mirror half of the training images.
    random_crop: With `fit='crop'`, train on a random square whose side is
      `crop_min` to `crop_max` of the shorter side, instead of the central one.
    crop_min: Smallest side of a random crop, as a fraction.
    crop_max: Largest side of a random crop, as a fraction.
    shuffle: Shuffle the training records anew in every epoch.
    image_key: The TFDS feature that holds the image.
    label_key: The TFDS feature that holds the class; a data set without it
      gives label -1.
    text_key: The TFDS feature that holds a text; a data set without it, or
      that does not say which words it has (`io.words`), gives none.
    on_error: What an unreadable image does. `raise` stops, naming file and
      record. `skip` puts the next readable record in its place (training) or
      masks it (evaluation), and counts it.
    workers: Processes that decode images; 0 decodes in threads of this one.
      Batches do not depend on it.
    cache_mib: Memory for decoded images, so that a small data set is decoded
      once; each worker has as much. Batches do not depend on it.
  """

  name: str = _identity('digits')
  split: str = _identity('train')
  eval_split: str = _identity('test')
  data_dir: str | None = _identity(None)
  image_size: int | None = _identity(None)
  channels: Literal[1, 3] | None = _identity(None)
  fit: images.Policy = _identity('crop')
  flip: bool = _identity(False)
  random_crop: bool = _identity(False)
  crop_min: float = _identity(0.8)
  crop_max: float = _identity(1.0)
  shuffle: bool = _identity(True)
  image_key: str = _identity('image')
  label_key: str = _identity('label')
  text_key: str = _identity('text')
  on_error: OnError = _identity('raise')
  workers: int = 0
  cache_mib: int = 256

  def __post_init__(self) -> None:
    """Checks every field that has a small set of legal values.

    Raises:
      DataError: Naming each illegal field, its value and what is expected.
    """
    rules = (
      (
        self.image_size is None or self.image_size >= 1,
        f'image_size={self.image_size}: give a positive number of pixels',
      ),
      (
        self.channels in (None, 1, 3),
        f'channels={self.channels}: give 1 (grey), 3 (RGB) or None',
      ),
      (
        self.fit in images.POLICIES,
        f'fit={self.fit!r}: give one of {", ".join(images.POLICIES)}',
      ),
      (
        self.fit == 'crop' or not self.random_crop,
        f"random_crop=True with fit={self.fit!r}: it needs fit='crop'",
      ),
      (
        0 < self.crop_min <= self.crop_max <= 1,
        f'crop_min={self.crop_min} and crop_max={self.crop_max}: give '
        'fractions in (0, 1], the smaller one first',
      ),
      (
        self.on_error in ('raise', 'skip'),
        f"on_error={self.on_error!r}: give 'raise' or 'skip'",
      ),
      (
        self.workers >= 0,
        f'workers={self.workers}: give 0 (threads) or more',
      ),
      (
        self.name != 'folder' or self.data_dir is not None,
        "name='folder' needs data_dir: the folder of images",
      ),
      (
        self.name != 'tokens' or self.data_dir is not None,
        "name='tokens' needs data_dir: the --out of `tokpress encode --data`",
      ),
      (
        self.name != 'tokens' or not (self.flip or self.random_crop),
        "name='tokens' with flip or random_crop: tokens cannot be augmented, "
        'so set both to False; `tokpress encode --flip --crops K` writes '
        'mirrors and crops beforehand',
      ),
    )
    wrong = [message for fine, message in rules if not fine]
    if wrong:
      raise DataError('Bad data config: ' + '; '.join(wrong) + '.')
