"""What packed and entropy-coded token files are made of: symbols and numbers.

See `io.token_codings`, which says what they are.

Dimension letters: R squares of an image, N token slots, Q codes per token, G
digits of a code, n used tokens, s symbols.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tokpress_jax.io import entropy
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import (
  Record,
  damaged,
  first_number,
  pack_fields,
  read_varints,
  varint,
)

_CHUNK = 4096  # symbols of a number

# A record without its codes, its fields' bytes, its payload.
Stub = tuple[Record, bytes, bytes]


@dataclasses.dataclass(frozen=True)
class Tables:
  """Of each symbol where its table begins, and its radix."""

  begins: np.ndarray
  begin_list: list[int]
  sizes: list[int]

  def __add__(self, other: Tables) -> Tables:
    return Tables(
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
    self._known: dict[int, Tables] = {}

  def of(self, record: Record) -> tuple[np.ndarray, Tables]:
    """The place of each symbol (where its table begins + it), int [s]."""
    codes, slots = record.used
    digits = codes.astype(np.int64)[..., None] // self._basis % self._radices
    digits = digits.ravel()  # of [n, Q, G]
    tables = self._of_tokens(record, slots)
    if record.slots is not None:
      digits = np.concatenate([kept_of(record).ravel(), digits])
      tables = self._of_masks(len(record.lengths)) + tables
    return tables.begins + digits, tables

  def of_each(self, records: Sequence[Record]) -> list[np.ndarray]:
    """The places of several records, at once where that is simple."""
    simple = all(len(r.lengths) == 1 and r.slots is None for r in records)
    if not simple:
      return [self.of(record)[0] for record in records]
    codes = np.concatenate([r.codes[0] for r in records]).astype(np.int64)
    digits = codes[..., None] // self._basis % self._radices
    digits = digits.reshape(len(records), len(self._begins), -1)
    places = self._begins.reshape(1, len(self._begins), -1) + digits
    return [
      own[: int(r.lengths[0])].ravel()
      for own, r in zip(places, records, strict=True)
    ]

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
      check_kept(kept, record)
      slots = np.nonzero(kept)[1]
      places.append(masks.begins + kept.ravel())
    else:
      numbers = _Numbers(payload, count, pop)
    tables = self._of_tokens(record, slots)
    digits = np.array(numbers.take(tables), np.int64)
    codes = (digits.reshape(-1, len(self._radices)) * self._basis).sum(axis=1)
    codes = codes.astype(np.int32)
    numbers.check(first_number(fields, codes, slots))
    places.append(tables.begins + digits)
    return fill(record, codes, self._header, slots), np.concatenate(places)

  def _of_tokens(self, record: Record, slots: np.ndarray | None) -> Tables:
    if slots is None:
      tables = [self._of_prefix(n) for n in record.lengths.tolist()]
      return functools.reduce(operator.add, tables)
    begins = self._begins[slots].ravel()
    sizes = self._radices.tolist() * (len(slots) * self._begins.shape[1])
    return Tables(begins, begins.tolist(), sizes)

  def _of_prefix(self, count: int) -> Tables:
    """Of the first slots; remembered."""
    if count not in self._known:
      begins = self._begins[:count].ravel()
      sizes = self._radices.tolist() * (count * self._begins.shape[1])
      self._known[count] = Tables(begins, begins.tolist(), sizes)
    return self._known[count]

  def _of_masks(self, rows: int) -> Tables:
    begins = np.tile(2 * np.arange(self._header.num_tokens), rows)
    return Tables(begins, begins.tolist(), [2] * len(begins))


def kept_of(record: Record) -> np.ndarray:
  """Which slots are used, uint8 [R, N]."""
  assert record.slots is not None
  kept = np.zeros(record.slots.shape, np.uint8)
  for row, slots, length in zip(
    kept, record.slots, record.lengths, strict=True
  ):
    row[slots[:length]] = 1
  return kept


def check_kept(kept: np.ndarray, record: Record) -> None:
  """Raises `UserError` unless as many slots are used as there are tokens."""
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
  begin = first_number(fields, *record.used)
  numbers = [
    entropy.to_bytes(push(slice(start, min(start + _CHUNK, count)), begin))
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

  def take(self, tables: Tables) -> list[int]:
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

  def check(self, first: int) -> None:
    """Raises `UserError` unless every number is what it began as."""
    if self._numbers != [first] * len(self._numbers):
      raise damaged()
