"""Numbers of whole symbols: asymmetric numeral systems without rounding.

A row of symbols becomes one (big) integer, as if it were written in a base that
changes from digit to digit: a symbol of probability p makes the integer 1 / p
times larger, so that its length is the information of the row, rounded up to a
byte (Duda, "Asymmetric numeral systems", arXiv 1311.2540, section 3; no
renormalisation is needed, since integers may be as long as they like). The
first symbol that went in comes out last: rows are pushed from their end. A
symbol is worth its information only on a number that is large already, so that
there should be one to start with, such as a checksum (`io.token_record`).

Everything here is integer arithmetic, the probabilities of `Histograms`
included, so that a file reads the same on every machine.

Dimension letters: T tables, V symbols of a table.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

# Probabilities are whole numbers of 2^-24: even a table of 2^16 symbols, each
# of which keeps a chance, loses 0.4% of its mass to them.
PRECISION = 24
TOTAL = 1 << PRECISION

# How many observations of a slot of its own weigh as much as all slots'.
_TRUST = 16
# A histogram is halved beyond this, which keeps the products below 63 bits.
_MOST = 1 << 17
_FINE = 20  # bits of the shared probabilities


def to_bytes(number: int) -> bytes:
  """The shortest bytes of a number, little-endian; none for 0."""
  return number.to_bytes((number.bit_length() + 7) // 8, 'little')


def from_bytes(data: bytes) -> int:
  """Inverse of `to_bytes`."""
  return int.from_bytes(data, 'little')


def push_uniform(
  symbols: Sequence[int], radices: Sequence[int], number: int
) -> int:
  """Puts symbols, each one of so many equally probable ones, upon a number."""
  for symbol, radix in zip(reversed(symbols), reversed(radices), strict=True):
    number = number * radix + symbol
  return number


def pop_uniform(number: int, radices: Iterable[int]) -> tuple[list[int], int]:
  """Inverse of `push_uniform`: the symbols, and what they were put upon."""
  symbols = []
  for radix in radices:
    number, symbol = divmod(number, radix)
    symbols.append(symbol)
  return symbols, number


def push(starts: Sequence[int], counts: Sequence[int], number: int) -> int:
  """Puts symbols into a number, the last one first.

  Args:
    starts: of each symbol, the sum of the counts before it in its table.
    counts: its own, at least 1; those of a table add up to `TOTAL`.
    number: what they are put upon.
  """
  for start, count in zip(reversed(starts), reversed(counts), strict=True):
    quotient, rest = divmod(number, count)
    number = (quotient << PRECISION) + start + rest
  return number


def quantize(probabilities: np.ndarray) -> np.ndarray:
  """Whole counts of probabilities, at least 1 each, that add up to `TOTAL`.

  Args:
    probabilities: float [..., V], of sum 1 (within rounding), V below 2^22.

  Returns:
    int64 [..., V].
  """
  size = probabilities.shape[-1]
  p = np.maximum(probabilities.astype(np.float64), 0)
  scale = (TOTAL - size) / np.maximum(p.sum(axis=-1, keepdims=True), 1e-300)
  # A tiny bit less, so that rounding never gives more than there is.
  counts = 1 + np.floor(p * (scale * (1 - 1e-9))).astype(np.int64)
  counts[..., 0] += TOTAL - counts.sum(axis=-1)
  return counts


@dataclasses.dataclass(frozen=True)
class Layout:
  """Tables that lie one after another in flat arrays.

  Attributes:
    blocks: (T, V) of tables that have equal alphabets, and share what they
      learn.
  """

  blocks: tuple[tuple[int, int], ...]

  @property
  def offsets(self) -> list[int]:
    """Where each block begins; the last is the size of all."""
    sizes = [tables * size for tables, size in self.blocks]
    return np.cumsum([0, *sizes]).tolist()


class Histograms:
  """Probabilities of symbols, from those that were seen before.

  A table's own counts are mixed with those of all tables of its block: p =
  (n_symbol + 16 p_shared) / (n + 16), where p_shared has half a count for every
  symbol (Krichevsky & Trofimov, 1981).
  """

  def __init__(self, layout: Layout):
    """Starts with equal probabilities."""
    self._layout = layout
    self._own = np.zeros(layout.offsets[-1], np.int64)
    self._lists: tuple[list[int], list[int]] | None = None
    self._refresh()

  def observe(self, places: np.ndarray) -> None:
    """Counts symbols; what they change is used from then on.

    Args:
      places: int [n], offset of each one's table plus the symbol.
    """
    self._own += np.bincount(places, minlength=len(self._own))
    self._refresh()

  def look_up(self, places: np.ndarray) -> tuple[list[int], list[int]]:
    """Starts and counts of symbols, for `push`; `places` as in `observe`."""
    return self._starts[places].tolist(), self._counts[places].tolist()

  def pop(
    self, number: int, tables: Iterable[tuple[int, int]]
  ) -> tuple[list[int], int]:
    """Takes symbols out of a number.

    Args:
      number: of `push`.
      tables: offset and V of each symbol's table.

    Returns:
      The symbols, and what they were put upon.
    """
    if self._lists is None:  # which `bisect` reads much faster than arrays
      self._lists = self._starts.tolist(), self._counts.tolist()
    starts, counts = self._lists
    mask, symbols = TOTAL - 1, []
    for offset, size in tables:
      low = number & mask
      place = bisect.bisect_right(starts, low, offset, offset + size) - 1
      number = counts[place] * (number >> PRECISION) + low - starts[place]
      symbols.append(place - offset)
    return symbols, number

  def _refresh(self) -> None:
    starts, counts = [], []
    for (tables, size), begin in zip(
      self._layout.blocks, self._layout.offsets, strict=False
    ):
      own = self._own[begin : begin + tables * size].reshape(tables, size)
      while (many := own.sum(axis=1) > _MOST).any():
        own[many] //= 2
      shared = own.sum(axis=0)
      fine = ((2 * shared + 1) << _FINE) // (2 * shared.sum() + size)
      seen = (own << _FINE) + _TRUST * fine
      total = (own.sum(axis=1, keepdims=True) + _TRUST) << _FINE
      count = 1 + seen * (TOTAL - size) // total
      count[:, 0] += TOTAL - count.sum(axis=1)
      counts.append(count.ravel())
      starts.append((np.cumsum(count, axis=1) - count).ravel())
    self._starts = np.concatenate(starts)
    self._counts = np.concatenate(counts)
    self._lists = None
