"""Codes in as many bits as a generator finds them surprising.

A generator that goes block by block gives, at each slot, the probabilities of
the code there given those before; `io.entropy` turns them into numbers. The
same compiled program walks through the slots when codes are written and when
they are read (the one that draws samples, a host function taking the place of
the draw), so that its probabilities agree to the last bit. Another kind of
device, or another version of the compiler, may round differently: then a file
does not read, and its checksums say so. Recode what has to last as `adaptive`.

Dimension letters: B lanes (rows that are coded at once), N token slots, n of
them in one block, V codes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback

from tokpress_jax import types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import sampling
from tokpress_jax.generators.base import GeneratorConfig
from tokpress_jax.io import entropy, safetensors
from tokpress_jax.io.token_codings import coding_of
from tokpress_jax.io.token_header import Header
from tokpress_jax.io.token_record import (
  Record,
  damaged,
  first_number,
  pack_fields,
)
from tokpress_jax.io.token_symbols import (
  Stub,
  fill,
  join_numbers,
  split_numbers,
)

Array = jax.Array

# Float32 probabilities [B, n, V] -> codes int32 [B, n].
Visit = Callable[[np.ndarray], np.ndarray]

_LANES = 64


@struct.dataclass
class _Visitor(sampling.Sampler):
  """A sampler that asks a function of the host for the codes."""

  host: Any = struct.field(pytree_node=False, default=None)  # a Visit

  def draw(self, logits: Array, noise: Array) -> Array:
    """See `Sampler`; the noise is not used."""
    del noise
    shape = jax.ShapeDtypeStruct(logits.shape[:-1], jnp.int32)
    probabilities = jax.nn.softmax(logits.astype(jnp.float32))
    return io_callback(self.host, shape, probabilities, ordered=True)


class Walk:
  """Walks through all slots of a generator; compiled once for each B."""

  def __init__(self, generator: types.Loaded):
    """Takes a generator, with its tokenizer if it reads that.

    Raises:
      UserError: it does not go block by block, or reads a text.
    """
    config = generator.module.config
    if not isinstance(config, GeneratorConfig):
      raise UserError(
        f'codes are coded by a generator; this is a {type(config).__name__}'
      )
    if hasattr(config, 'steps'):
      raise UserError(
        f'{generator.spec.name or type(config).__name__} refines all codes at '
        'once and gives no probability of each code after those before; take '
        'a generator that goes slot by slot or scale by scale'
      )
    if config.reads_text:
      raise UserError(
        'this generator reads texts, of which token files hold none; take one '
        'that reads classes, or none'
      )
    self._generator = generator
    self._visit: Visit | None = None
    self.config = config
    self._run = jax.jit(self._walk)

  def __call__(self, labels: np.ndarray, visit: Visit) -> None:
    """Calls `visit` for each block, in order.

    Args:
      labels: int32 [B].
      visit: gives the codes of a block, whatever its probabilities are.
    """
    self._visit = visit
    jax.block_until_ready(self._run(self._generator, jnp.asarray(labels)))

  def _walk(self, generator: types.Loaded, labels: Array) -> Array:
    drawn = generator.sample_codes(
      labels,
      rng=jax.random.key(0),
      sampler=_Visitor(host=self._ask),
      tokenizer=generator.tokenizer,
      num_tokens=self.config.num_tokens,
    )
    return drawn.codes

  def _ask(self, probabilities: Any) -> np.ndarray:
    assert self._visit is not None  # `__call__` has set it.
    return np.asarray(self._visit(np.asarray(probabilities)), np.int32)


class GeneratorCoding:
  """A `io.token_codings.Coding` by a generator's probabilities.

  The payload of a record is a number for each square, one after another, with
  its size in bytes, a varint, before all but the last. A number begins as 2^32
  + the record's checksum. Squares share batches of 64, in the order of the
  file; what is left is filled up to a power of two.
  """

  def __init__(self, generator: types.Loaded, header: Header):
    """Takes the generator that codes a file, and the file's header.

    Raises:
      UserError: the generator cannot code, or not these codes, or it is not the
        one that the header names.
    """
    self._walk = Walk(generator)
    self._header = header
    config = self._walk.config
    pairs = {
      'legal lengths': (tuple(config.boundaries), header.boundaries),
      'codebook size': (config.codebook_size, header.codebook_size),
      'codes per token': (1, header.num_codes),
      'tokens of any slot': (False, header.selects),
    }
    wrong = [
      f'{name}: {_short(ours)} there, {_short(theirs)} here'
      for name, (ours, theirs) in pairs.items()
      if ours != theirs
    ]
    if wrong:
      raise UserError(
        f'the generator does not code these tokens ({"; ".join(wrong)}); take '
        'the one that was trained on this tokenizer'
      )
    mine = coder_of(generator)
    if header.coder != mine:
      raise UserError(
        f'these tokens were coded by another generator (fingerprint '
        f'{header.coder}; the one given has {mine})'
      )

  def encode(self, records: Iterable[Record]) -> Iterator[bytes]:
    """See `io.token_codings.Coding`."""
    yield from _by_rows(records, lambda r: len(r.lengths), self._encode)

  def decode(self, stubs: Iterable[Stub]) -> Iterator[Record]:
    """See `io.token_codings.Coding`."""
    yield from _by_rows(stubs, lambda s: len(s[0].lengths), self._decode)

  def _encode(self, records: list[Record]) -> list[bytes]:
    codes = np.concatenate([r.codes[..., 0] for r in records])
    lengths = np.concatenate([r.lengths for r in records])
    found: list[tuple[list[int], list[int]]] = [([], []) for _ in codes]

    def visit(lane: int, slot: int, counts: np.ndarray) -> int:
      code = int(codes[lane, slot])
      found[lane][0].append(int(counts[:code].sum()))
      found[lane][1].append(int(counts[code]))
      return code

    self._visit(records, lengths, visit)
    row, payloads = 0, []
    for record in records:
      fields = pack_fields(record)
      begin = first_number(fields, *record.used)
      numbers = [
        entropy.to_bytes(entropy.push(*lane, begin))
        for lane in found[row : row + len(record.lengths)]
      ]
      row += len(record.lengths)
      payloads.append(b''.join([fields, *join_numbers(numbers)]))
    return payloads

  def _decode(self, stubs: list[Stub]) -> list[Record]:
    numbers = [
      n for r, _, data in stubs for n in split_numbers(data, len(r.lengths))
    ]
    records = [record for record, _, _ in stubs]
    lengths = np.concatenate([r.lengths for r in records])
    codes = np.zeros((len(numbers), self._header.num_tokens), np.int32)

    def visit(lane: int, slot: int, counts: np.ndarray) -> int:
      ends = np.cumsum(counts)
      low = numbers[lane] & (entropy.TOTAL - 1)
      code = int(np.searchsorted(ends, low, side='right'))
      rest = low - int(ends[code] - counts[code])
      high = numbers[lane] >> entropy.PRECISION
      numbers[lane] = int(counts[code]) * high + rest
      codes[lane, slot] = code
      return code

    self._visit(records, lengths, visit)
    row, done = 0, []
    for record, fields, _ in stubs:
      rows = slice(row, row + len(record.lengths))
      row = rows.stop
      used = np.arange(codes.shape[1]) < record.lengths[:, None]
      own = codes[rows][used]
      record = fill(record, own, self._header, None)
      begin = first_number(fields, own, None)
      if any(number != begin for number in numbers[rows]):
        raise UserError(
          f'{damaged()} Or it was coded on another kind of device, where the '
          "generator's probabilities round differently."
        )
      done.append(record)
    return done

  def _visit(
    self,
    records: list[Record],
    lengths: np.ndarray,
    visit: Callable[[int, int, np.ndarray], int],
  ) -> None:
    """Calls (lane, slot, counts [V]) -> code for all slots that count."""
    classes = self._walk.config.num_classes
    lanes = 1 << (len(lengths) - 1).bit_length()
    labels = np.full((lanes,), classes, np.int32)
    if classes == self._header.num_classes:
      of = [[r.label] * len(r.lengths) for r in records]
      known = np.concatenate([np.asarray(x, np.int32) for x in of])
      labels[: len(known)] = np.where(known < 0, classes, known)
    start = 0

    def block(probabilities: np.ndarray) -> np.ndarray:
      nonlocal start
      size = probabilities.shape[1]
      codes = np.zeros(probabilities.shape[:2], np.int32)
      for lane, length in enumerate(lengths.tolist()):
        count = min(size, length - start)
        if count > 0:
          counts = entropy.quantize(probabilities[lane, :count])
          for i in range(count):
            codes[lane, i] = visit(lane, start + i, counts[i])
      start += size
      return codes

    self._walk(labels, block)


def coder_of(generator: types.Loaded) -> str:
  """The fingerprint of a generator, as `Header.coder` has it."""
  return safetensors.fingerprint(generator.variables)


def opener(generator: types.Loaded | None) -> Callable[[Header], Any]:
  """What `io.tokens.Reader` takes as its `coding`.

  Args:
    generator: for files that one coded; None reads the others only.
  """
  return functools.partial(_coding_of, generator)


def _coding_of(generator: types.Loaded | None, header: Header) -> Any:
  if header.coding == 'generator' and generator is not None:
    return GeneratorCoding(generator, header)
  return coding_of(header)


def _short(value: Any) -> str:
  """A value for a message; of many numbers the first and last ones."""
  if isinstance(value, tuple) and len(value) > 4:
    return f'{value[0]}, {value[1]}, ..., {value[-1]}'
  return ', '.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _by_rows(
  items: Iterable[Any],
  rows_of: Callable[[Any], int],
  function: Callable[[list[Any]], list[Any]],
) -> Iterator[Any]:
  """Calls a function on as many items as fill the lanes, one at least."""
  waiting: list[Any] = []
  rows = 0
  for item in items:
    count = rows_of(item)
    if waiting and rows + count > _LANES:
      yield from function(waiting)
      waiting, rows = [], 0
    waiting.append(item)
    rows += count
  if waiting:
    yield from function(waiting)


__all__ = ['GeneratorCoding', 'Visit', 'Walk', 'coder_of', 'opener']
