"""Batches that are a pure function of (seed, step).

B is the global batch size, S an image's side, C its channels; N tokens of Q
codes each where the records are tokens; M codes of a text.

The order is: source -> seed -> shuffle -> repeat -> map (decode) -> random_map
(fit, augment) -> rows of this step and host -> batch. Randomness depends on a
record's place in the *global* sequence, and the cut by host comes after it, so
1, 2 or 4 hosts and any number of workers give the same global batches, row for
row. Nothing has to be saved but the step: a resume starts at `start_step`.
Batching after worker processes, or cutting by host before the augmentation,
loses this, silently.
"""

import atexit
import dataclasses
import logging
import math
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tokpress_jax.data.config import DataConfig, DataError
from tokpress_jax.data.dataset import (
  Dataset,
  DatasetInfo,
  EvalFunction,
  TrainFunction,
  open_dataset,
)
from tokpress_jax.errors import UserError

log = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]

# Batches decoded ahead in this process, and the threads that do it.
_AHEAD = 4


class Stream:
  """Training batches of one host.

  Attributes:
    info: What the batches hold.
    skipped: Records that could not be read so far (`on_error='skip'`).
  """

  def __init__(
    self,
    config: DataConfig,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
  ):
    """Opens the training split.

    Args:
      config: What to train on.
      batch_size: B, over all hosts.
      seed: Of the order and of the augmentations, 0 to 2**32 - 1.
      process_index: This host.
      process_count: Number of hosts; it must divide B.

    Raises:
      DataError: If the data set cannot be opened, or B cannot be divided.
    """
    import grain

    self._dataset = open_dataset(config, config.split)
    self.info: DatasetInfo = self._dataset.info
    self.skipped: set[int] = set()
    self._config = config
    transform, _ = self._dataset.transforms(config)
    elements = grain.MapDataset.range(len(self._dataset)).seed(seed)
    if config.shuffle:
      elements = elements.shuffle()
    elements = (
      elements.repeat()
      .map(_Load(self._dataset, config))
      .random_map(_Augment(self._dataset.key, transform))
    )
    self._rows = _Rows(
      elements, batch_size, process_index, process_count, sys.maxsize
    )

  def batch_at(self, step: int) -> Batch:
    """Computes the batch of one step, in this thread."""
    return self._account(self._rows[step])

  def batches(self, start_step: int = 0) -> Iterator[Batch]:
    """Yields this host's part of every batch from `start_step` on, for ever.

    Args:
      start_step: The first step, as after a resume.

    Yields:
      `image` uint8 `[B / hosts, S, S, C]` (of tokens: `codes` int32 `[B /
      hosts, N, Q]`), `label` int32, `index` int64 (record number) and `valid`
      bool (all True), each `[B / hosts]`; where the images have texts, `text`
      int32 `[B / hosts, M]` too, see `io.words`.
    """
    for batch in _iterate(self._rows, start_step, self._config.workers):
      yield self._account(batch)

  def _account(self, batch: Batch) -> Batch:
    """Counts and reports the records that were passed over."""
    asked = batch.pop('asked')
    for first, used in zip(asked, batch['index'], strict=True):
      record = int(first)
      while record != int(used):
        if record not in self.skipped:
          self.skipped.add(record)
          log.warning('Skipped %s', self._dataset.where(record))
        record = (record + 1) % len(self._dataset)
    return batch


def eval_batches(
  config: DataConfig,
  *,
  split: str | None = None,
  batch_size: int,
  process_index: int = 0,
  process_count: int = 1,
) -> Iterator[Batch]:
  """Reads every record of a split once, in order.

  Args:
    config: What to evaluate on.
    split: By default the evaluation split.
    batch_size: B, over all hosts.
    process_index: This host.
    process_count: Number of hosts; it must divide B.

  Returns:
    An iterator of batches like those of `Stream.batches`. The last one is
    filled up with zeros whose `valid` is False, `index` and `label` -1; so is
    the row of an unreadable image if `on_error='skip'`. Every host yields as
    many batches.

  Raises:
    DataError: If the data set cannot be opened, or B cannot be divided.
  """
  import grain

  dataset = open_dataset(config, config.eval_split if split is None else split)
  steps = math.ceil(len(dataset) / max(batch_size, 1))
  _, transform = dataset.transforms(config)
  elements = grain.MapDataset.range(steps * batch_size).map(
    _EvalLoad(dataset, transform, config.on_error)
  )
  rows = _Rows(elements, batch_size, process_index, process_count, steps)
  return _evaluate(dataset, rows, config.workers, batch_size, process_index)


class _Load:
  """Decodes a record, or the next one that can be decoded."""

  def __init__(self, dataset: Dataset, config: DataConfig):
    self._dataset = dataset
    self._skip = config.on_error == 'skip'
    self._cache: dict[int, dict[str, Any]] = {}
    self._room = config.cache_mib * 2**20

  def __call__(self, index: int) -> dict[str, Any]:
    index = int(index)
    element = self._cache.get(index)
    if element is None:
      element = {**self._readable(index), 'asked': np.int64(index)}
      size = element[self._dataset.key].nbytes
      if size <= self._room:
        self._room -= size
        self._cache[index] = element
    return element

  def _readable(self, index: int) -> dict[str, Any]:
    if not self._skip:
      return self._dataset[index]
    count = len(self._dataset)
    for record in range(index, index + count):
      try:
        return self._dataset[record % count]
      except UserError as error:
        last = error
    raise DataError(
      f'None of the {count} records of {self._dataset.info.name} can be read. '
      f'The last one: {last}'
    )


@dataclasses.dataclass(frozen=True)
class _Augment:
  """Applies the training transform to an element."""

  key: str
  transform: TrainFunction

  def __call__(
    self, element: dict[str, Any], rng: np.random.Generator
  ) -> dict[str, Any]:
    made = self.transform(element[self.key], rng)
    return {**element, self.key: made, 'valid': np.bool_(True)}


@dataclasses.dataclass(frozen=True)
class _EvalLoad:
  """Decodes a record, or gives an empty row past the end."""

  dataset: Dataset
  transform: EvalFunction
  on_error: str

  def __call__(self, index: int) -> dict[str, Any]:
    index, key = int(index), self.dataset.key
    if index < len(self.dataset):
      try:
        element = self.dataset[index]
        made = self.transform(element[key], index)
        return {**element, key: made, 'valid': np.bool_(True)}
      except UserError:
        if self.on_error == 'raise':
          raise
    return {**self.dataset.nothing(), 'valid': np.bool_(False)}


class _Rows:
  """A random-access source: step -> this host's rows of the global batch."""

  def __init__(
    self,
    elements: Any,
    batch_size: int,
    process_index: int,
    process_count: int,
    steps: int,
  ):
    if batch_size < 1 or batch_size % process_count:
      raise DataError(
        f'A batch of {batch_size} images cannot be shared by '
        f'{process_count} hosts: give a positive multiple of '
        f'{process_count}.'
      )
    self._elements = elements
    self._batch_size = batch_size
    self._local = batch_size // process_count
    self._first = process_index * self._local
    self._steps = min(steps, sys.maxsize // batch_size)

  def __len__(self) -> int:
    return self._steps

  def __getitem__(self, step: int) -> Batch:
    begin = step * self._batch_size + self._first
    rows = [self._elements[begin + row] for row in range(self._local)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def _iterate(rows: _Rows, start: int, workers: int) -> Iterator[Batch]:
  """Reads ahead, in threads or in worker processes."""
  import grain

  ahead = grain.ReadOptions(num_threads=_AHEAD, prefetch_buffer_size=_AHEAD)
  batches = grain.MapDataset.source(rows)[start:].to_iter_dataset(ahead)
  if workers:
    _mark_flags_parsed()
    options = grain.MultiprocessingOptions(
      num_workers=workers, per_worker_buffer_size=2
    )
    batches = batches.mp_prefetch(options)
  iterator = iter(batches)
  # Workers and shared memory must go before the interpreter does.
  atexit.register(iterator.close)
  try:
    for batch in iterator:
      # A copy, because workers hand over shared memory that is unmapped later.
      yield {key: np.array(value) for key, value in batch.items()}
  finally:
    atexit.unregister(iterator.close)
    iterator.close()


def _evaluate(
  dataset: Dataset,
  rows: _Rows,
  workers: int,
  batch_size: int,
  process_index: int,
) -> Iterator[Batch]:
  """Reads the batches of an evaluation and reports unreadable records."""
  skipped = 0
  for step, batch in enumerate(_iterate(rows, 0, workers)):
    begin = step * batch_size + process_index * len(batch['valid'])
    for row in np.flatnonzero(~batch['valid']):
      if begin + row < len(dataset):
        skipped += 1
        where = dataset.where(int(begin + row))
        log.warning('Skipped %s (%d so far)', where, skipped)
    yield batch


def _mark_flags_parsed() -> None:
  """Lets Grain 0.2.17 and 0.2.18 start workers outside `absl.app.run`."""
  from absl import flags

  if not flags.FLAGS.is_parsed():
    flags.FLAGS.mark_as_parsed()
