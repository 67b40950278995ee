"""Images to codes as a stream: nothing is held but what is under way.

R squares of an image, S the side of one, C its channels, b squares at once.
"""

import collections
import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import tqdm

from tokpress_jax import data, types
from tokpress_jax.data import streaming
from tokpress_jax.data.config import OnError
from tokpress_jax.data.views import Views
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import safetensors, tokens
from tokpress_jax.io.token_header import Header


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
  """A record of a token file whose codes are still missing."""

  squares: np.ndarray
  placement: images_lib.Placement
  index: int
  label: int
  view: int
  name: str


class Files(data.Dataset):
  """Image files as a data set without classes."""

  def __init__(self, paths: Sequence[pathlib.Path], config: Any):
    """Takes paths of images, and a tokenizer's config."""
    self._paths = paths
    self.info = data.DatasetInfo(
      name='files',
      split='',
      num_records=len(paths),
      image_size=config.image_size,
      channels=config.channels,
      num_classes=0,
    )

  def read(self, index: int) -> data.Record:
    """See the base class."""
    return data.Record(self._paths[index], -1)

  def where(self, index: int) -> str:
    """See the base class."""
    return str(self._paths[index])

  def name(self, index: int) -> str:
    """The name that the decoded image gets."""
    return self._paths[index].name


def header_of(model: types.Loaded, *, tokens: int, **fields: Any) -> Header:
  """A token file's header, with what the tokenizer decides.

  Args:
    model: A tokenizer with codes.
    tokens: How many of them each square is given, at most.
    **fields: Others of `Header`.
  """
  config = model.module.config
  return Header(
    fingerprint=safetensors.fingerprint(model.variables),
    tokenizer=model.spec.name,
    image_size=config.image_size,
    channels=config.channels,
    boundaries=config.boundaries,
    tokens=tokens,
    num_codes=config.quantizer.num_codes,
    codebook_size=config.codebook_size,
    digits=config.quantizer.digits,
    selects=config.selects,
    **fields,
  )


def read_views(
  source: data.Dataset,
  records: range,
  views: Views,
  *,
  on_error: OnError = 'raise',
) -> Iterator[View]:
  """Decodes images in threads, in order, a few ahead of their use.

  Args:
    source: Images, at their own size.
    records: Which of them.
    views: What is made of each.
    on_error: What an unreadable image does: `raise`, or `skip`, which prints
      its name.

  Yields:
    The views of every image.
  """

  def load(index: int) -> list[View] | str:
    try:
      element = source[index]
    except UserError as error:
      if on_error == 'raise':
        raise
      return str(error)
    name = source.name(index) if isinstance(source, Files) else ''
    made = views(element['image'], index)
    return [
      View(
        squares=squares,
        placement=placement,
        index=index,
        label=int(element['label']),
        view=view,
        name=name,
      )
      for view, (squares, placement) in enumerate(made)
    ]

  threads = os.cpu_count() or 1
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    todo = iter(records)
    waiting = collections.deque(
      pool.submit(load, index) for index in itertools.islice(todo, 4 * threads)
    )
    try:
      while waiting:
        found = waiting.popleft().result()
        waiting.extend(pool.submit(load, i) for i in itertools.islice(todo, 1))
        if isinstance(found, str):
          tqdm.tqdm.write(f'Skipped: {found}')
        else:
          yield from found
    finally:
      pool.shutdown(cancel_futures=True)


class Encoder:
  """Gives views their codes, on all devices of this process."""

  def __init__(self, model: types.Loaded, policy: Any, size: int):
    """Puts the model onto the devices.

    Args:
      model: A tokenizer.
      policy: How many tokens each square gets, see `tokenizers.lengths`.
      size: Squares at once, over all devices; rounded up to a multiple of their
        number.
    """
    devices = jax.local_devices()
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    spec = jax.sharding.PartitionSpec
    self._spread = jax.sharding.NamedSharding(mesh, spec('data'))
    self._model = jax.device_put(
      model, jax.sharding.NamedSharding(mesh, spec())
    )
    self._size = -(-size // len(devices)) * len(devices)

    def encode(model: Any, pixels: jax.Array) -> tuple[jax.Array, ...]:
      encoded = model.encode(images_lib.to_float(pixels), policy=policy)
      found = (encoded.codes, encoded.length)
      if encoded.positions is None:
        return found
      return *found, encoded.positions[..., 0]

    self._encode = jax.jit(encode)

  def __call__(self, views: Iterable[View]) -> Iterator[tokens.Record]:
    """Encodes views, in their order; squares of several share a batch."""
    waiting: collections.deque[View] = collections.deque()

    def squares() -> Iterator[tuple[np.ndarray]]:
      for view in views:
        waiting.append(view)
        yield from ((square,) for square in view.squares)

    results = streaming.stream(
      lambda pixels: self._encode(self._model, pixels),
      squares(),
      self._size,
      sharding=self._spread,
    )
    for first in results:
      view = waiting.popleft()
      rest = itertools.islice(results, len(view.squares) - 1)
      rows = [first, *rest]
      lengths = np.array([row[1] for row in rows])
      yield tokens.Record(
        codes=_cut([row[0] for row in rows], lengths),
        lengths=lengths,
        slots=_cut([row[2] for row in rows], lengths) if first[2:] else None,
        placement=view.placement,
        index=view.index,
        label=view.label,
        view=view.view,
        name=view.name,
      )


def _cut(rows: Sequence[np.ndarray], lengths: np.ndarray) -> np.ndarray:
  """Rows [N, ...] as one array [R, N, ...], 0 beyond their lengths."""
  cut = np.array(rows)
  for row, length in zip(cut, lengths.tolist(), strict=True):
    row[length:] = 0
  return cut
