"""Token files: images as codes, with all that is needed to get them back.

One format for a few photographs, for what `tokpress decode` reads, and for the
caches that generators train from. (An ArrayRecord file takes 128 kB at least,
the tokens of a photograph some hundred bytes.) A file holds, its numbers being
little-endian:

| bytes     | what                                                           |
|-----------|----------------------------------------------------------------|
| 8         | b'tokpress'                                                    |
| 4         | uint32 h                                                       |
| 4         | uint32, CRC-32 of the header                                   |
| h         | the header: JSON of `Header`, `format` (1) and `coding`        |
| ...       | n records, one after another                                   |
| 8 (n + 1) | uint64, where each record begins, and where the last one ends  |
| 4         | uint32, CRC-32 of those                                        |
| 8         | uint64 n                                                       |
| 8         | b'tokpress', which a file that was cut short lacks             |

A record is one view (a crop, its mirror) of one image, as R squares, one unless
the image is tiled:

| bytes     | what                                                           |
|-----------|----------------------------------------------------------------|
| 4         | uint32, CRC-32 of the rest of the record                       |
| 8         | int64, the image's number in its source                        |
| 4         | int32, its class, -1 for none                                  |
| 2         | uint16, which of the image's views                             |
| 2         | uint16 m                                                       |
| 8         | uint32, height and width of the image                          |
| 16        | uint32, top, left, height, width: see `io.images.Placement`    |
| 4         | uint16, rows and columns of tiles, R in all                    |
| 4 R       | uint32, tokens of each square                                  |
| m         | the file's name, UTF-8                                         |
| ...       | the codes, Q for each token, square after square               |

`coding` says how codes lie in the last field: `uint8`, `uint16` or `uint32`,
the smallest that holds the codebook's size.

A large set is cut into several files of one directory, see `io.token_sets`,
whose headers differ in `shard` only. A file is written under another name
first, so that one with its own name is whole.

Dimension letters: R squares of an image, N token slots, Q codes per token.
"""

import bisect
import contextlib
import dataclasses
import os
import pathlib
import struct
import weakref
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io.token_header import Header

SUFFIX = '.tok'
_MAGIC = b'tokpress'
_HEAD = struct.Struct('<8sII')
_TAIL = struct.Struct('<IQ8s')
_RECORD = struct.Struct('<qiHH2I4I2H')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """One view of one image.

  Attributes:
    codes: int32 [R, N, Q]; 0 where square r has no more than lengths[r].
    lengths: int32 [R].
    placement: how the image became square.
    index: its number in its source.
    label: its class; -1 for none.
    view: which of its views, from 0.
    name: the file's name, or empty.
  """

  codes: np.ndarray
  lengths: np.ndarray
  placement: images_lib.Placement
  index: int = 0
  label: int = -1
  view: int = 0
  name: str = ''


def write(
  path: str | os.PathLike[str], header: Header, records: Iterable[Record]
) -> int:
  """Writes a token file, record by record.

  Args:
    path: The file; a token file that is there is replaced, in the end.
    header: What the records have in common.
    records: The records, which need not be held in memory.

  Returns:
    How many there were.

  Raises:
    UserError: Something else is there, or the directory cannot be written.
  """
  path = pathlib.Path(path).expanduser()
  if path.exists() and not is_token_file(path):
    raise UserError(f'{path} exists and is no token file. Give another --out.')
  partial = path.with_name(f'.{path.name}.part')
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = partial.open('wb')
  except OSError as error:
    raise UserError(
      f'Cannot write {path}: {error.strerror}. Give another --out.'
    ) from error
  try:
    with file:
      text = header.to_json()
      file.write(_HEAD.pack(_MAGIC, len(text), zlib.crc32(text)) + text)
      places = [file.tell()]
      for record in records:
        places.append(places[-1] + file.write(_pack(record, header)))
      index = np.array(places, '<u8').tobytes()
      file.write(index)
      file.write(_TAIL.pack(zlib.crc32(index), len(places) - 1, _MAGIC))
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
  return len(places) - 1


class Reader:
  """The records of one or more token files of one set, in any order.

  It may be read from several threads, and sent to other processes.

  Attributes:
    header: of the first file.
  """

  def __init__(self, paths: Iterable[str | os.PathLike[str]]):
    """Opens the files and checks that they are whole and of one set.

    Args:
      paths: At least one.

    Raises:
      UserError: A file is missing, cut short, damaged, something else, or of
        another set.
    """
    self._paths = tuple(os.fspath(path) for path in paths)
    self._files: list[int] = []
    weakref.finalize(self, _close, self._files)
    for path in self._paths:
      self._files.append(_open(path))
    read = [
      _read_frame(path, file)
      for path, file in zip(self._paths, self._files, strict=True)
    ]
    self.header = read[0][0]
    for path, (header, _) in zip(self._paths, read, strict=True):
      wrong = self.header.differences(header)
      if wrong:
        raise UserError(
          f'{self._paths[0]} and {path} are not of one set: {"; ".join(wrong)}.'
        )
    self._dtype = self.header.dtype
    self._places = [places for _, places in read]
    self._ends = np.cumsum([len(p) - 1 for p in self._places]).tolist()

  def __reduce__(self) -> Any:
    """Another process opens the files itself."""
    return Reader, (self._paths,)

  def __len__(self) -> int:
    """Returns the number of records."""
    return self._ends[-1]

  def __getitem__(self, index: int) -> Record:
    """Reads a record.

    Raises:
      IndexError: There is no such record.
      UserError: It is damaged.
    """
    shard, row = self._find(index)
    start, stop = self._places[shard][row : row + 2].tolist()
    body = os.pread(self._files[shard], stop - start, start)
    try:
      return _unpack(body, self.header, self._dtype)
    except UserError as error:
      raise UserError(f'{self.where(index)} {error}') from None

  def __iter__(self) -> Iterator[Record]:
    """Reads them all, in order."""
    return (self[index] for index in range(len(self)))

  def where(self, index: int) -> str:
    """Names the file and the record in it, for messages."""
    shard, row = self._find(index)
    return f'{self._paths[shard]}, record {row}'

  def _find(self, index: int) -> tuple[int, int]:
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    shard = bisect.bisect_right(self._ends, index)
    return shard, index - (self._ends[shard - 1] if shard else 0)


def is_token_file(path: str | os.PathLike[str]) -> bool:
  """Whether a file begins as a token file does."""
  with contextlib.suppress(OSError), open(path, 'rb') as file:
    return file.read(len(_MAGIC)) == _MAGIC
  return False


def _open(path: str) -> int:
  try:
    if not os.path.isdir(path):
      return os.open(path, os.O_RDONLY)
  except FileNotFoundError:
    raise UserError(f'There is no token file {path!r}.') from None
  except OSError as error:
    raise UserError(f'{path} cannot be opened: {error.strerror}.') from error
  raise UserError(f'{path} is a directory; expected a token file.')


def _close(files: list[int]) -> None:
  for file in files:
    os.close(file)


def _read_frame(path: str, file: int) -> tuple[Header, np.ndarray]:
  """Reads a file's header and the places of its records."""
  size = os.fstat(file).st_size
  head = os.pread(file, _HEAD.size, 0)
  if head[: len(_MAGIC)] != _MAGIC:
    start = f'it begins with {head[:8]!r}' if head else 'it is empty'
    raise UserError(
      f'{path} is no token file ({start}); expected one that `tokpress encode` '
      'wrote.'
    )
  short = UserError(
    f'{path} was cut short: its end is missing. Copy it again, or remove it '
    'and run the same `tokpress encode` again.'
  )
  damaged = f'{path} is damaged'
  if size < _HEAD.size + _TAIL.size:
    raise short
  check, count, magic = _TAIL.unpack(
    os.pread(file, _TAIL.size, size - _TAIL.size)
  )
  length = 8 * (count + 1)
  begin = size - _TAIL.size - length
  if magic != _MAGIC or begin < _HEAD.size:
    raise short
  index = os.pread(file, length, begin)
  if zlib.crc32(index) != check:
    raise UserError(f'{damaged}: the checksum of its index is wrong.')
  _, length, check = _HEAD.unpack(head)
  text = os.pread(file, min(length, begin), _HEAD.size)
  if zlib.crc32(text) != check:
    raise UserError(f'{damaged}: the checksum of its header is wrong.')
  return Header.from_json(path, text), np.frombuffer(index, '<u8').astype(
    np.int64
  )


def _pack(record: Record, header: Header) -> bytes:
  """Returns a record's bytes."""
  place, name = record.placement, record.name.encode()
  body = _RECORD.pack(
    record.index,
    record.label,
    record.view,
    len(name),
    *place.original,
    *place.box,
    *place.grid,
  )
  lengths = np.asarray(record.lengths, '<u4')
  codes = [row[:n] for row, n in zip(record.codes, lengths, strict=True)]
  stored = np.concatenate(codes).astype(header.dtype)
  body += lengths.tobytes() + name + stored.tobytes()
  return struct.pack('<I', zlib.crc32(body)) + body


def _unpack(data: bytes, header: Header, dtype: np.dtype) -> Record:
  """Inverse of `_pack`, with the codes padded to all slots.

  Raises:
    UserError: The bytes are not those that were written, or a code or a class
      is out of range.
  """
  body = memoryview(data)[4:]
  if len(data) < 4 + _RECORD.size or (
    struct.unpack_from('<I', data)[0] != zlib.crc32(body)
  ):
    raise UserError(
      'is damaged: its checksum is wrong. Copy the file again, or remove it '
      'and run the same `tokpress encode` again.'
    )
  index, label, view, size, *place = _RECORD.unpack_from(body)
  rows = place[6] * place[7]
  start = _RECORD.size
  lengths = np.frombuffer(body, '<u4', rows, start).astype(np.int32)
  start += 4 * rows
  name = bytes(body[start : start + size]).decode()
  flat = np.frombuffer(body, dtype, offset=start + size)
  shape = (rows, header.num_tokens, header.num_codes)
  if flat.size != lengths.sum() * shape[2] or (lengths > shape[1]).any():
    raise UserError(
      f'holds {flat.size} codes for {rows} rows of '
      f'{lengths.tolist()[:8]} tokens with {shape[2]} codes each, of which '
      f'there may be {shape[1]}. It was not written by `tokpress encode`.'
    )
  if flat.size and flat.max() >= header.codebook_size:
    raise UserError(
      f'holds the code {flat.max()}, and its tokenizer has '
      f'{header.codebook_size} codes, from 0. It was not written by `tokpress '
      'encode`.'
    )
  if not -1 <= label < header.num_classes:
    raise UserError(
      f'has the class {label} of {header.num_classes}. It was not '
      'written by `tokpress encode`.'
    )
  if flat.size == np.prod(shape):  # most often, and faster
    codes = flat.astype(np.int32).reshape(shape)
  else:
    codes = np.zeros(shape, np.int32)
    slots = np.arange(shape[1]) < lengths[:, None]  # [R, N]
    codes[slots] = flat.reshape(-1, shape[2])
  return Record(
    codes=codes,
    lengths=lengths,
    placement=images_lib.Placement(
      policy=header.fit,
      original=(place[0], place[1]),
      size=header.image_size,
      box=(place[2], place[3], place[4], place[5]),
      grid=(place[6], place[7]),
    ),
    index=index,
    label=label,
    view=view,
    name=name,
  )
