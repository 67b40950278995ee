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
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import entropy
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import (
  Record,
  Varints,
  damaged,
  pack_fields,
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

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    for record in records:
      fields = pack_fields(record)
      body = record.codes[record.used].astype(self._header.dtype).tobytes()
      if record.slots is not None:
        body += np.packbits(_kept(record)).tobytes()
      check = record.checksum(fields).to_bytes(4, 'little')
      yield fields + check + body

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    for stub, fields, body in stubs:
      header, rows = self._header, len(stub.lengths)
      count = int(stub.lengths.sum()) * header.num_codes
      end = 4 + count * header.dtype.itemsize
      bits = rows * header.num_tokens if header.selects else 0
      if len(body) != end + (bits + 7) // 8:
        raise UserError(
          f'holds {len(body) - 4} bytes of codes where {stub.lengths.sum()} '
          f'tokens of {header.num_codes} codes take {end - 4}. It was not '
          'written by `tokpress encode`.'
        )
      codes = np.frombuffer(body, header.dtype, count, 4).astype(np.int32)
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
      record = fill(stub, codes, header, kept)
      if body[:4] != record.checksum(fields).to_bytes(4, 'little'):
        raise damaged()
      yield record


class Packed:
  """Every symbol takes the log of its radix."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._symbols = Symbols(header)

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    for record in records:
      places, tables, sizes = self._symbols.of(record)
      digits = (places - tables).tolist()
      sizes = sizes.tolist()
      push = lambda part, number, d=digits, s=sizes: entropy.push_uniform(
        d[part], s[part], number
      )
      yield number_payload(record, len(digits), push)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    for stub in stubs:
      yield self._symbols.take(
        stub,
        lambda number, _, sizes: entropy.pop_uniform(number, sizes),
      )


class Adaptive:
  """Symbols by the frequencies of those before, slot by slot."""

  def __init__(self, header: Header):
    """Takes the file's header."""
    self._symbols = Symbols(header)

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `Coding`."""
    seen = _Seen(self._symbols.layout)
    for record in records:
      places, _, _ = self._symbols.of(record)
      starts, counts = seen.histograms.look_up(places)
      push = lambda part, number, s=starts, c=counts: entropy.push(
        s[part], c[part], number
      )
      yield number_payload(record, len(starts), push)
      seen.add(places)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `Coding`."""
    seen = _Seen(self._symbols.layout)
    pop = lambda number, tables, sizes: seen.histograms.pop(
      number, zip(tables, sizes, strict=True)
    )
    for stub in stubs:
      record = self._symbols.take(stub, pop)
      yield record
      seen.add(self._symbols.of(record)[0])


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
    self._tables = begins + np.arange(slots)[:, None, None] * self._radices

  def of(self, record: Record) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each symbol its place (table + symbol), table and radix, int [s]."""
    used = record.used
    slots = np.nonzero(used)[1] if record.slots is None else record.slots[used]
    codes = record.codes[used].astype(np.int64)[..., None]
    digits = codes // self._basis % self._radices  # [n, Q, G]
    tables, sizes = self._of_slots(slots)
    digits = digits.ravel()
    if record.slots is not None:
      kept = _kept(record)
      masks, twos = self._of_masks(len(kept))
      digits = np.concatenate([kept.ravel(), digits])
      tables = np.concatenate([masks, tables])
      sizes = np.concatenate([twos, sizes])
    return tables + digits, tables, sizes

  def take(
    self, stub: Stub, pop: Callable[[int, list[int], list[int]], Any]
  ) -> Record:
    """Reads a record.

    Args:
      stub: its fields and payload.
      pop: (number, tables, radices) -> (symbols, the number left).

    Raises:
      UserError: the payload is not the one that was written.
    """
    record, fields, payload = stub
    header, rows = self._header, len(record.lengths)
    numbers = Numbers(payload, pop)
    kept = None
    if header.selects:
      tables, sizes = self._of_masks(rows)
      # How many numbers there are depends on all symbols; those of the tokens
      # are known only now.
      total = len(tables) + self._per_token * int(record.lengths.sum())
      numbers.expect(total)
      kept = np.array(numbers.take(tables, sizes)).reshape(rows, -1)
      if not (kept.sum(axis=1) == record.lengths).all():
        raise damaged()
      slots = np.nonzero(kept)[1]
    else:
      used = np.arange(header.num_tokens) < record.lengths[:, None]
      slots = np.nonzero(used)[1]
      numbers.expect(self._per_token * len(slots))
    digits = np.array(numbers.take(*self._of_slots(slots)), np.int64)
    codes = (digits.reshape(-1, len(self._radices)) * self._basis).sum(axis=1)
    record = fill(record, codes.astype(np.int32), header, kept)
    numbers.check(record.checksum(fields))
    return record

  @property
  def _per_token(self) -> int:
    return self._tables.shape[1] * self._tables.shape[2]

  def _of_slots(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    tables = self._tables[slots]
    return tables.ravel(), np.broadcast_to(self._radices, tables.shape).ravel()

  def _of_masks(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
    tables = np.tile(2 * np.arange(self._header.num_tokens), rows)
    return tables, np.full(len(tables), 2)


def _kept(record: Record) -> np.ndarray:
  """Which slots are used, uint8 [R, N]."""
  assert record.slots is not None
  kept = np.zeros(record.slots.shape, np.uint8)
  rows, tokens = np.nonzero(record.used)
  kept[rows, record.slots[rows, tokens]] = 1
  return kept


def fill(
  record: Record, codes: np.ndarray, header: Header, kept: np.ndarray | None
) -> Record:
  """Puts codes into a record without.

  Args:
    record: with its lengths.
    codes: int32 [n Q], those that count.
    header: of the file.
    kept: which slots are used [R, N], of tokenizers that select.
  """
  shape = (len(record.lengths), header.num_tokens, header.num_codes)
  used = np.arange(shape[1]) < record.lengths[:, None]
  filled = np.zeros(shape, np.int32)
  filled[used] = codes.reshape(-1, shape[2])
  slots = None
  if kept is not None:
    slots = np.zeros(shape[:2], np.int32)
    slots[used] = np.nonzero(kept)[1]
  return dataclasses.replace(record, codes=filled, slots=slots)


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
  begin = 1 << 32 | record.checksum(fields)
  starts = range(0, max(count, 1), _CHUNK)
  numbers = [
    entropy.to_bytes(push(slice(start, start + _CHUNK), begin))
    for start in starts
  ]
  sized = [varint(len(number)) + number for number in numbers[:-1]]
  return b''.join([fields, *sized, numbers[-1]])


class Numbers:
  """Takes symbols out of a payload's numbers."""

  def __init__(self, payload: bytes, pop: Callable[..., Any]):
    """Takes the payload, and (number, tables, radices) -> (symbols, left)."""
    self._payload, self._pop = payload, pop
    self._left: list[int] = []

  def expect(self, count: int) -> None:
    """Splits the payload into the numbers of so many symbols."""
    read, chunks = Varints(self._payload, 0), []
    try:
      for _ in range(0, max(count, 1) - _CHUNK, _CHUNK):
        size = next(read)
        chunks.append(self._payload[read.place : read.place + size])
        read.place += size
    except (ValueError, StopIteration):
      raise damaged() from None
    chunks.append(self._payload[read.place :])
    self._chunks, self._taken = chunks, 0
    self._number = entropy.from_bytes(chunks[0])

  def take(self, tables: np.ndarray, sizes: np.ndarray) -> list[int]:
    """The next symbols."""
    symbols: list[int] = []
    start, total = 0, len(tables)
    while start < total:
      room = _CHUNK - self._taken % _CHUNK
      if room == _CHUNK and self._taken:
        self._left.append(self._number)
        self._number = entropy.from_bytes(self._chunks[len(self._left)])
      part = slice(start, min(start + room, total))
      found, self._number = self._pop(
        self._number, tables[part].tolist(), sizes[part].tolist()
      )
      symbols += found
      self._taken += len(found)
      start = part.stop
    return symbols

  def check(self, checksum: int) -> None:
    """Raises `UserError` unless every number is down to the checksum."""
    begin = 1 << 32 | checksum
    if any(number != begin for number in [*self._left, self._number]):
      raise damaged()
