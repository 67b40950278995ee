"""Tokens as a data set: what `tokpress encode --data` wrote.

Every view (crop, mirror) of an image is a record, so that an epoch sees all of
them. Of a tiled image, training draws one tile per visit and evaluation takes
tile (record number mod number of tiles), as with images.

R squares of an image, N token slots, Q codes per token.
"""

import pathlib
from typing import Any, ClassVar

import numpy as np

from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.dataset import (
  Dataset,
  DatasetInfo,
  EvalFunction,
  Record,
  TrainFunction,
)
from tokpress_jax.io import token_sets, tokens


class TokenDataset(Dataset):
  """One split of a directory of token files; see `io.tokens`."""

  key: ClassVar[str] = 'codes'

  def __init__(self, config: DataConfig, split: str):
    """Opens the files of a split.

    Args:
      config: `data_dir` is the directory.
      split: A split that was encoded into it.

    Raises:
      UserError: If there is no such split, or its files are not complete,
        damaged, or of different sets.
    """
    root = pathlib.Path(config.data_dir or '.').expanduser()
    self._reader = tokens.Reader(token_sets.find(root, split))
    header = self._reader.header
    wrong = [
      f'data.{name}={given} (there {stored})'
      for name, given, stored in (
        ('image_size', config.image_size, header.image_size),
        ('channels', config.channels, header.channels),
      )
      if given not in (None, stored)
    ]
    if wrong:
      raise DataError(
        f'The tokens in {root} are of other images than the config says: '
        f'{", ".join(wrong)}. Give another data_dir, or leave these out.'
      )
    self.info = DatasetInfo(
      name='tokens',
      split=split,
      num_records=len(self._reader),
      image_size=header.image_size,
      channels=3 if header.channels == 3 else 1,
      num_classes=header.num_classes,
      class_names=header.class_names,
      splits=tuple(
        (name, self._count(root, name, split))
        for name in token_sets.list_sets(root)
      ),
      directory=str(root),
      description=f'Tokens of {header.source}, split {header.split}.',
      tokens=header,
    )

  def _count(self, root: pathlib.Path, name: str, split: str) -> int:
    """Records of a split; 0 if its files are not complete."""
    if name == split:
      return len(self._reader)
    try:
      return len(tokens.Reader(token_sets.find(root, name)))
    except ValueError:
      return 0

  def read(self, index: int) -> Record:
    """See the base class."""
    record = self._reader[index]
    return Record(record, record.label)

  def decode(self, encoded: Any, index: int) -> np.ndarray:
    """Returns the codes, int32 [R, N, Q]."""
    del index
    return encoded.codes

  def transforms(
    self, config: DataConfig
  ) -> tuple[TrainFunction, EvalFunction]:
    """Returns the choice of one square: int32 [R, N, Q] to [N, Q]."""
    del config
    return _draw_square, _choose_square

  def blank(self) -> np.ndarray:
    """Returns zeros, int32 [N, Q]."""
    header = self._reader.header
    return np.zeros((header.num_tokens, header.num_codes), np.int32)

  def where(self, index: int) -> str:
    """See the base class."""
    return self._reader.where(index)


def _draw_square(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  return codes[rng.integers(len(codes)) if len(codes) > 1 else 0]


def _choose_square(codes: np.ndarray, index: int) -> np.ndarray:
  return codes[int(index) % len(codes)]
