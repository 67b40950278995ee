"""How codes lie in a token file: plain, packed, or as short as they can be.

| coding      | the payload of a record                                        |
|-------------|----------------------------------------------------------------|
| `plain`     | CRC-32, then the codes as uint8, uint16 or uint32              |
| `packed`    | numbers in which every code of V takes log2(V) bits            |
| `adaptive`  | numbers by the frequencies of the records before               |
| `generator` | numbers by a generator's probabilities, `generators.coding`    |

Plain and packed records are read in any order. Adaptive ones are read from the
first; the frequencies change after 1, 2, 4, ..., 64 records and then after each
64. Only codes that count are there, square after square.

What is packed or coded are symbols: the G digits of each code, the lowest first
(a code of FSQ has one for each of its levels, others are one digit). Tokenizers
that select have R N symbols before them, 1 for each slot that is used.
4,096 symbols at a time are one number (`io.entropy`), of which all but the last
have their size in bytes, a varint, before them. A number begins as 2^32 + the
record's checksum, and is that again when all symbols were taken out.

Dimension letters: R squares of an image, N token slots, Q codes per token, G
digits of a code, n used tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import entropy
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import (
  Record,
  checksum,
  damaged,
  pack_fields,
  read_varints,
  varint,
)

_CHUNK = 4096
_GROUP = 64

# A record without its codes, its fields' bytes, its payload.
Stub = tuple[Record, bytes, bytes]


class Coding(Protocol):
  """Turns records into payloads and back, in their order."""

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """Gives each record's bytes, fields and payload."""
    ...

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """Inverse; raises `UserError` for a record that was changed."""
    ...


def coding_of(header: Header) -> Coding:
  """The coding of a file, but `generator`, which needs one."""
  codings: dict[str, Callable[[Header], Coding]] = {
    'plain': Plain,
    'packed': Packed,
    'adaptive': Adaptive,
  }
  if header.coding not in codings:
    raise UserError(
      'This file was coded by a generator (fingerprint '
      f'{header.coder}): `tokpress decode` reads it with --generator MODEL, '
      'and `--recode FILE` makes a file of it that reads without one.'
    )
  return codings[header.coding](header)


class Plain:
  """Codes as they are."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._header = header
    self._dtype = header.dtype

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    for record in records:
      fields, (codes, slots) = pack_fields(record), record.used
      check = checksum(fields, codes, slots).to_bytes(4, 'little')
      parts = [fields, check, codes.astype(self._dtype).tobytes()]
      if record.slots is not None:
        parts.append(np.packbits(_kept(record)).tobytes())
      yield b''.join(parts)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    header = self._header
    for stub, fields, body in stubs:
      rows = len(stub.lengths)
      count = int(stub.lengths.sum()) * header.num_codes
      end = 4 + count * self._dtype.itemsize
      bits = rows * header.num_tokens if header.selects else 0
      if len(body) != end + (bits + 7) // 8:
        raise UserError(
          f'holds {len(body) - 4} bytes of codes where {stub.lengths.sum()} '
          f'tokens of {header.num_codes} codes take {end - 4}. It was not '
          'written by `tokpress encode`.'
        )
      codes = np.frombuffer(body, self._dtype, count, 4).astype(np.int32)
      if count and codes.max() >= header.codebook_size:
        raise UserError(
          f'holds the code {codes.max()}, and its tokenizer has '
          f'{header.codebook_size} codes, from 0. It was not written by '
          '`tokpress encode`.'
        )
      kept = None
      if header.selects:
        packed = np.frombuffer(body, np.uint8, offset=end)
        kept = np.unpackbits(packed, count=bits).reshape(rows, -1)
        _check_kept(kept, stub)
      slots = None if kept is None else np.nonzero(kept)[1]
      if int.from_bytes(body[:4], 'little') != checksum(fields, codes, slots):
        raise damaged()
      yield fill(stub, codes, header, slots)


class Packed:
  """Every symbol takes the log of its radix."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._symbols = Symbols(header)

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    for record in records:
      places, tables = self._symbols.of(record)
      digits = (places - tables.begins).tolist()
      push = lambda part, number, d=digits, t=tables: entropy.push_uniform(
        d[part], t.sizes[part], number
      )
      yield number_payload(record, len(digits), push)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    for stub in stubs:
      pop = lambda number, _, sizes: entropy.pop_uniform(number, sizes)
      yield self._symbols.take(stub, pop)[0]


class Adaptive:
  """Symbols by the frequencies of those before, slot by slot."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._symbols = Symbols(header)

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    seen = _Seen(self._symbols.layout)
    for record in records:
      places, _ = self._symbols.of(record)
      starts, counts = seen.histograms.look_up(places)
      push = lambda part, number, s=starts, c=counts: entropy.push(
        s[part], c[part], number
      )
      yield number_payload(record, len(starts), push)
      seen.add(places)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    seen = _Seen(self._symbols.layout)
    pop = lambda number, begins, sizes: seen.histograms.pop(
      number, zip(begins, sizes, strict=True)
    )
    for stub in stubs:
      record, places = self._symbols.take(stub, pop)
      yield record
      seen.add(places)


class _Seen:
  """Histograms that learn from 1, 2, 4, ... records at a time."""

  def __init__(self, layout: entropy.Layout):
    self.histograms = entropy.Histograms(layout)
    self._waiting: list[np.ndarray] = []
    self._size = 1

  def add(self, places: np.ndarray) -> None:
    self._waiting.append(places)
    if len(self._waiting) == self._size:
      self.histograms.observe(np.concatenate(self._waiting))
      self._waiting.clear()
      self._size = min(2 * self._size, _GROUP)


@dataclasses.dataclass(frozen=True)
class _Tables:
  """Of each symbol where its table begins, and its radix."""

  begins: np.ndarray
  begin_list: list[int]
  sizes: list[int]

  def __add__(self, other: _Tables) -> _Tables:
    return _Tables(
      np.concatenate([self.begins, other.begins]),
      self.begin_list + other.begin_list,
      self.sizes + other.sizes,
    )


class Symbols:
  """The symbols of records, and the tables that they are looked up in."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._header = header
    slots, codes = header.num_tokens, header.num_codes
    self._radices = np.array(header.radices, np.int64)
    self._basis = np.cumprod([1, *header.radices[:-1]])
    blocks = [(slots, 2)] if header.selects else []
    first = len(blocks)
    blocks += [(slots, radix) for _ in range(codes) for radix in header.radices]
    self.layout = entropy.Layout(tuple(blocks))
    begins = np.array(self.layout.offsets[first:-1], np.int64)
    begins = begins.reshape(codes, len(self._radices))
    # [N, Q, G]
    self._begins = begins + np.arange(slots)[:, None, None] * self._radices
    self._known: dict[int, _Tables] = {}

  def of(self, record: Record) -> tuple[np.ndarray, _Tables]:
    """The place of each symbol (where its table begins + it), int [s]."""
    codes, slots = record.used
    digits = codes.astype(np.int64)[..., None] // self._basis % self._radices
    digits = digits.ravel()  # of [n, Q, G]
    tables = self._of_tokens(record, slots)
    if record.slots is not None:
      digits = np.concatenate([_kept(record).ravel(), digits])
      tables = self._of_masks(len(record.lengths)) + tables
    return tables.begins + digits, tables

  def take(
    self, stub: Stub, pop: Callable[[int, list[int], list[int]], Any]
  ) -> tuple[Record, np.ndarray]:
    """Reads a record.

    Args:
      stub: its fields and payload.
      pop: (number, where tables begin, radices) -> (symbols, the number left).

    Returns:
      It, and the places of its symbols.

    Raises:
      UserError: the payload is not the one that was written.
    """
    record, fields, payload = stub
    rows = len(record.lengths)
    per_token = self._begins.shape[1] * self._begins.shape[2]
    count = per_token * int(record.lengths.sum())
    slots, places = None, []
    if self._header.selects:
      masks = self._of_masks(rows)
      numbers = _Numbers(payload, count + len(masks.sizes), pop)
      kept = np.array(numbers.take(masks)).reshape(rows, -1)
      _check_kept(kept, record)
      slots = np.nonzero(kept)[1]
      places.append(masks.begins + kept.ravel())
    else:
      numbers = _Numbers(payload, count, pop)
    tables = self._of_tokens(record, slots)
    digits = np.array(numbers.take(tables), np.int64)
    codes = (digits.reshape(-1, len(self._radices)) * self._basis).sum(axis=1)
    codes = codes.astype(np.int32)
    numbers.check(checksum(fields, codes, slots))
    places.append(tables.begins + digits)
    return fill(record, codes, self._header, slots), np.concatenate(places)

  def _of_tokens(self, record: Record, slots: np.ndarray | None) -> _Tables:
    if slots is None:
      tables = [self._of_prefix(n) for n in record.lengths.tolist()]
      return functools.reduce(operator.add, tables)
    begins = self._begins[slots].ravel()
    sizes = self._radices.tolist() * (len(slots) * self._begins.shape[1])
    return _Tables(begins, begins.tolist(), sizes)

  def _of_prefix(self, count: int) -> _Tables:
    """Of the first slots; remembered."""
    if count not in self._known:
      begins = self._begins[:count].ravel()
      sizes = self._radices.tolist() * (count * self._begins.shape[1])
      self._known[count] = _Tables(begins, begins.tolist(), sizes)
    return self._known[count]

  def _of_masks(self, rows: int) -> _Tables:
    begins = np.tile(2 * np.arange(self._header.num_tokens), rows)
    return _Tables(begins, begins.tolist(), [2] * len(begins))


def _kept(record: Record) -> np.ndarray:
  """Which slots are used, uint8 [R, N]."""
  assert record.slots is not None
  kept = np.zeros(record.slots.shape, np.uint8)
  for row, slots, length in zip(
    kept, record.slots, record.lengths, strict=True
  ):
    row[slots[:length]] = 1
  return kept


def _check_kept(kept: np.ndarray, record: Record) -> None:
  if not (kept.sum(axis=1) == record.lengths).all():
    raise damaged()


def fill(
  record: Record, codes: np.ndarray, header: Header, slots: np.ndarray | None
) -> Record:
  """Puts codes into a record without.

  Args:
    record: with its lengths.
    codes: int32 [n Q], those that count.
    header: of the file.
    slots: int [n], of tokenizers that select.
  """
  shape = (len(record.lengths), header.num_tokens, header.num_codes)
  padded = np.zeros(shape, np.int32)
  places = None if slots is None else np.zeros(shape[:2], np.int32)
  start = 0
  codes = codes.reshape(-1, shape[2])
  for row, length in enumerate(record.lengths.tolist()):
    padded[row, :length] = codes[start : start + length]
    if places is not None and slots is not None:
      places[row, :length] = slots[start : start + length]
    start += length
  return dataclasses.replace(record, codes=padded, slots=places)


def number_payload(
  record: Record, count: int, push: Callable[[slice, int], int]
) -> bytes:
  """A record's bytes, its payload being numbers.

  Args:
    record: it.
    count: of its symbols.
    push: (which symbols, number) -> the number with them.
  """
  fields = pack_fields(record)
  begin = 1 << 32 | checksum(fields, *record.used)
  numbers = [
    entropy.to_bytes(push(slice(start, start + _CHUNK), begin))
    for start in range(0, max(count, 1), _CHUNK)
  ]
  return b''.join([fields, *join_numbers(numbers)])


def join_numbers(numbers: list[bytes]) -> list[bytes]:
  """Puts the size before all numbers but the last."""
  return [
    *(varint(len(number)) + number for number in numbers[:-1]),
    numbers[-1],
  ]


def split_numbers(payload: bytes, count: int) -> list[int]:
  """Inverse of `join_numbers`, as numbers.

  Raises:
    UserError: there are fewer.
  """
  found, place = [], 0
  try:
    for _ in range(count - 1):
      (size,), place = read_varints(payload, place, 1)
      found.append(entropy.from_bytes(payload[place : place + size]))
      place += size
  except IndexError:
    raise damaged() from None
  return [*found, entropy.from_bytes(payload[place:])]


class _Numbers:
  """Takes symbols out of a payload's numbers."""

  def __init__(self, payload: bytes, count: int, pop: Callable[..., Any]):
    """Takes the payload of so many symbols."""
    self._numbers = split_numbers(payload, -(-max(count, 1) // _CHUNK))
    self._pop, self._taken = pop, 0

  def take(self, tables: _Tables) -> list[int]:
    """The next symbols."""
    symbols: list[int] = []
    while len(symbols) < len(tables.sizes):
      number, start = self._taken // _CHUNK, len(symbols)
      part = slice(start, start + _CHUNK - self._taken % _CHUNK)
      found, self._numbers[number] = self._pop(
        self._numbers[number], tables.begin_list[part], tables.sizes[part]
      )
      symbols += found
      self._taken += len(found)
    return symbols

  def check(self, check: int) -> None:
    """Raises `UserError` unless every number is down to the checksum."""
    if self._numbers != [1 << 32 | check] * len(self._numbers):
      raise damaged()
