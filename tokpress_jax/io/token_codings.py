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

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import entropy
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import (
  Record,
  checksum,
  damaged,
  pack_fields,
)
from tokpress_jax.io.token_symbols import (
  Stub,
  Symbols,
  check_kept,
  fill,
  kept_of,
  number_payload,
)

_GROUP = 64


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
        parts.append(np.packbits(kept_of(record)).tobytes())
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
        check_kept(kept, stub)
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
    source = iter(records)
    # What is learned from a group counts from the next one on.
    while group := list(itertools.islice(source, seen.size)):
      places = self._symbols.of_each(group)
      starts, counts = seen.histograms.look_up(np.concatenate(places))
      begin = 0
      for record, own in zip(group, places, strict=True):
        own_starts = starts[begin : begin + len(own)]
        own_counts = counts[begin : begin + len(own)]
        push = lambda part, number, s=own_starts, c=own_counts: entropy.push(
          s[part], c[part], number
        )
        yield number_payload(record, len(own), push)
        begin += len(own)
      for own in places:
        seen.add(own)

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
    self.size = 1  # of the group that is being seen
    self._waiting: list[np.ndarray] = []

  def add(self, places: np.ndarray) -> None:
    self._waiting.append(places)
    if len(self._waiting) == self.size:
      self.histograms.observe(np.concatenate(self._waiting))
      self._waiting.clear()
      self.size = min(2 * self.size, _GROUP)
