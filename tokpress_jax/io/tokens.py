"""Token files: images as codes, with all that is needed to get them back.

One format for a few photographs, for what `tokpress decode` reads, and for the
caches that generators train from. (An ArrayRecord file takes 128 kB at least,
the tokens of a photograph some hundred bytes.) A file holds, its numbers being
little-endian:

| bytes | what                                                               |
|-------|--------------------------------------------------------------------|
| 8     | b'tokpress'                                                        |
| 4     | uint32 h                                                           |
| 4     | uint32, CRC-32 of the header                                       |
| h     | the header: JSON of `Header`, and `format` (2)                     |
| ...   | n records, one after another, see `io.token_record`                |
| 4 n   | uint32, bytes of each record                                       |
| 4     | uint32, CRC-32 of those                                            |
| 8     | uint64 n                                                           |
| 8     | b'tokpress', which a file that was cut short lacks                 |

How the codes lie in a record is the header's `coding`: see `io.token_codings`.

A large set is cut into several files of one directory, see `io.token_sets`,
whose headers differ in `shard` only. A file is written under another name
first, so that one with its own name is whole.
"""

import bisect
import contextlib
import functools
import os
import pathlib
import struct
import threading
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io.token_codings import Coding, coding_of
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import Record, unpack_fields
from tokpress_jax.io.token_symbols import Stub

__all__ = ['SUFFIX', 'Header', 'Reader', 'Record', 'is_token_file', 'write']

SUFFIX = '.tok'
_MAGIC = b'tokpress'
_HEAD = struct.Struct('<8sII')
_TAIL = struct.Struct('<IQ8s')
_SEARCHED = 2**16  # bytes in which a file's end is looked for if misplaced


def write(
  path: str | os.PathLike[str],
  header: Header,
  records: Iterable[Record],
  *,
  coding: Coding | None = None,
) -> int:
  """Writes a token file, record by record.

  Args:
    path: The file; a token file that is there is replaced, in the end.
    header: What the records have in common.
    records: The records, which need not be held in memory.
    coding: What codes them; by default what the header names.

  Returns:
    How many there were.

  Raises:
    UserError: Something else is there, or the directory cannot be written.
    ValueError: The tokenizer selects and a record has no slots, or has some and
      it does not.
  """
  path = pathlib.Path(path).expanduser()
  coding = coding or coding_of(header)
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
      checked = _with_slots(records, header)
      sizes = [file.write(data) for data in coding.encode(checked)]
      index = np.array(sizes, '<u4').tobytes()
      file.write(index)
      file.write(_TAIL.pack(zlib.crc32(index), len(sizes), _MAGIC))
      file.flush()
      os.fsync(file.fileno())
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)
  return len(sizes)


class Reader:
  """The records of one or more token files of one set, in any order.

  It may be read from several threads, and sent to other processes. Of codings
  whose records depend on those before (adaptive, generator) a file is decoded
  as a whole, and kept, when a record of it is first read.

  Attributes:
    header: of the first file.
  """

  def __init__(
    self,
    paths: Iterable[str | os.PathLike[str]],
    *,
    coding: Callable[[Header], Coding] = coding_of,
  ):
    """Opens the files and checks that they are whole and of one set.

    Args:
      paths: At least one.
      coding: What decodes files of a header; `generators.coding` has one for
        those that a generator coded.

    Raises:
      UserError: There is none; or one is missing, cut short, damaged,
        something else, or of another set.
    """
    self._paths = tuple(os.fspath(path) for path in paths)
    if not self._paths:
      raise UserError('no token file was given; expected at least one')
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
    self._coding = coding
    self._in_order = self.header.coding in ('adaptive', 'generator')
    self._decoded: dict[int, list[Record]] = {}
    self._lock = threading.Lock()
    self._places = [places for _, places in read]
    self._ends = np.cumsum([len(p) - 1 for p in self._places]).tolist()

  def __reduce__(self) -> Any:
    """Another process opens the files itself."""
    return functools.partial(Reader, coding=self._coding), (self._paths,)

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
    if self._in_order:
      with self._lock:
        if shard not in self._decoded:
          self._decoded[shard] = list(self._decode(shard))
      return self._decoded[shard][row]
    coding = self._coding(self.header)
    try:
      return next(coding.decode(iter([self._stub(shard, row)])))
    except UserError as error:
      raise UserError(f'{self.where(index)} {error}') from None

  def _decode(self, shard: int) -> Iterator[Record]:
    """Decodes a whole file."""
    row = -1

    def stubs() -> Iterator[Stub]:
      nonlocal row
      for row in range(len(self._places[shard]) - 1):
        yield self._stub(shard, row)

    try:
      yield from self._coding(self.header).decode(stubs())
    except UserError as error:
      if row < 0:  # It is the file, and no record, that cannot be decoded.
        raise UserError(f'{self._paths[shard]}: {error}') from None
      raise UserError(f'{self._paths[shard]}, record {row} {error}') from None

  def _stub(self, shard: int, row: int) -> Stub:
    """Reads a record's fields and payload."""
    start, stop = self._places[shard][row : row + 2].tolist()
    data = os.pread(self._files[shard], stop - start, start)
    return unpack_fields(data, self.header)

  def __iter__(self) -> Iterator[Record]:
    """Reads them all, in order."""
    if self._in_order:  # decoded once, and kept
      yield from (self[index] for index in range(len(self)))
    else:
      for shard in range(len(self._files)):
        yield from self._decode(shard)

  def size_of(self, index: int) -> int:
    """Returns the bytes of a record in its file, with its place's."""
    shard, row = self._find(index)
    start, stop = self._places[shard][row : row + 2].tolist()
    return stop - start + 4

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


def _with_slots(records: Iterable[Record], header: Header) -> Iterator[Record]:
  """Gives the records, checked to have slots if, and only if, they must."""
  for number, record in enumerate(records):
    if (record.slots is not None) != header.selects:
      raise ValueError(
        f'record {number} has {"no " if header.selects else ""}slots, and the '
        f'header says selects={header.selects}'
      )
    yield record


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
  length = 4 * count
  begin = size - _TAIL.size - length
  if magic != _MAGIC or begin < _HEAD.size:
    end = os.pread(file, min(size, _SEARCHED), max(size - _SEARCHED, 0))
    extra = len(end) - end.rfind(_MAGIC) - len(_MAGIC)
    if _MAGIC in end and 0 < extra < size - _HEAD.size:
      raise UserError(
        f'{path} has {extra} bytes behind its end; remove them, or copy the '
        'file again.'
      )
    raise short
  index = os.pread(file, length, begin)
  if zlib.crc32(index) != check:
    raise UserError(f'{damaged}: the checksum of its index is wrong.')
  _, length, check = _HEAD.unpack(head)
  text = os.pread(file, min(length, begin), _HEAD.size)
  if zlib.crc32(text) != check:
    raise UserError(f'{damaged}: the checksum of its header is wrong.')
  sizes = np.frombuffer(index, '<u4').astype(np.int64)
  first = _HEAD.size + len(text)
  places = first + np.cumsum(np.append(0, sizes))
  if places[-1] != begin:
    raise UserError(f'{damaged}: its records are not where its index says.')
  return Header.from_json(path, text), places
