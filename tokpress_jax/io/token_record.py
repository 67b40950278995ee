"""One view of one image in a token file: its fields and its symbols.

A record is one view (a crop, its mirror) of one image, as R squares, one if
it is not tiled. A varint is an unsigned number in bytes of 7 bits, the lowest
first, the top bit of all but the last being set.

| bytes  | what                                                              |
|--------|-------------------------------------------------------------------|
| 2      | uint16, CRC-16 (CCITT) of the fields                              |
|        | the fields:                                                       |
| varint | the image's number in its source                                  |
| varint | its class + 1, 0 for none                                         |
| varint | which of the image's views                                        |
| varint | m                                                                 |
| varint | height and width of the image                                     |
| varint | top, left, height, width: see `io.images.Placement`               |
| varint | rows and columns of tiles, R in all                               |
| varint | k + 1 if each square has k tokens, or 0 and then R varints        |
| m      | the file's name, UTF-8                                            |
| ...    | the payload: the codes, see `io.token_codings`                    |

The record's checksum is the CRC-32 of all that stands before the payload, of
the codes that count and, of tokenizers that select, of their slots, both as
int32, square after square.

Dimension letters: R squares of an image, N token slots, Q codes per token.
"""

from __future__ import annotations

import binascii
import dataclasses
import zlib

import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io.token_header import Header

_MOST = 1 << 20  # squares of an image
_SMALL = tuple(bytes([i]) for i in range(128))


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
    slots: int32 [R, N], rising: which slot each token was encoded in, of
      tokenizers that select; 0 beyond the length. Else None.
  """

  codes: np.ndarray
  lengths: np.ndarray
  placement: images_lib.Placement
  index: int = 0
  label: int = -1
  view: int = 0
  name: str = ''
  slots: np.ndarray | None = None

  @property
  def used(self) -> tuple[np.ndarray, np.ndarray | None]:
    """The codes [n, Q] and slots [n] that count, square after square."""
    if len(self.lengths) == 1:  # most often, and much faster
      count = int(self.lengths[0])
      slots = None if self.slots is None else self.slots[0, :count]
      return self.codes[0, :count], slots
    used = np.arange(self.codes.shape[1]) < self.lengths[:, None]
    slots = None if self.slots is None else self.slots[used]
    return self.codes[used], slots


def checksum(fields: bytes, codes: np.ndarray, slots: np.ndarray | None) -> int:
  """The checksum of a record.

  Args:
    fields: of `pack_fields`.
    codes: int [n, Q] or [n Q], those that count.
    slots: int [n], of tokenizers that select.
  """
  check = zlib.crc32(codes.astype('<i4').tobytes(), zlib.crc32(fields))
  if slots is None:
    return check
  return zlib.crc32(slots.astype('<i4').tobytes(), check)


def first_number(
  fields: bytes, codes: np.ndarray, slots: np.ndarray | None
) -> int:
  """What a record's numbers begin as; see `checksum`."""
  return 1 << 32 | checksum(fields, codes, slots)


def pack_fields(record: Record) -> bytes:
  """Everything of a record but its payload."""
  place, name = record.placement, record.name.encode()
  numbers = [record.index, record.label + 1, record.view, len(name)]
  numbers += [*place.original, *place.box, *place.grid]
  lengths = [int(n) for n in record.lengths]
  same = len(set(lengths)) == 1
  numbers += [lengths[0] + 1] if same else [0, *lengths]
  data = b''.join(map(varint, numbers)) + name
  return binascii.crc_hqx(data, 0).to_bytes(2, 'little') + data


def unpack_fields(data: bytes, header: Header) -> tuple[Record, bytes, bytes]:
  """Inverse of `pack_fields`.

  Args:
    data: a record's bytes.
    header: of its file.

  Returns:
    The record without codes (and slots), the bytes of its fields, and its
    payload.

  Raises:
    UserError: the bytes are not those that were written, or do not fit the
      header; the message goes on from the name of the record.
  """
  try:
    numbers, at = read_varints(data, 2, 13)
    index, label, view, size, *place, first = numbers
    rows = place[6] * place[7]
    if rows > _MOST:
      raise IndexError
    lengths = [first - 1] * rows
    if not first:
      lengths, at = read_varints(data, at, rows)
    stop = at + size
    name = data[at:stop]
    if len(name) < size or binascii.crc_hqx(data[2:stop], 0) != int.from_bytes(
      data[:2], 'little'
    ):
      raise IndexError
  except IndexError:
    raise damaged() from None
  if max(lengths, default=0) > header.num_tokens:
    raise UserError(
      f'has a square of {max(lengths)} tokens, of which there may be '
      f'{header.num_tokens}. It was not written by `tokpress encode`.'
    )
  if label > header.num_classes:
    raise UserError(
      f'has the class {label - 1} of {header.num_classes}. It was not '
      'written by `tokpress encode`.'
    )
  record = Record(
    codes=np.zeros((0, 0, 0), np.int32),
    lengths=np.array(lengths, np.int32),
    placement=images_lib.Placement(
      policy=header.fit,
      original=(place[0], place[1]),
      size=header.image_size,
      box=(place[2], place[3], place[4], place[5]),
      grid=(place[6], place[7]),
    ),
    index=index,
    label=label - 1,
    view=view,
    name=name.decode(),
  )
  return record, data[:stop], data[stop:]


def damaged() -> UserError:
  """What is said of a record with a wrong checksum."""
  return UserError(
    'is damaged: its checksum is wrong. Copy the file again, or remove it and '
    'run the same `tokpress encode` again.'
  )


def varint(number: int) -> bytes:
  """An unsigned number in as many bytes of 7 bits as it needs."""
  if number < 128:
    return _SMALL[number]
  data = bytearray()
  while number > 127:
    data.append(number & 127 | 128)
    number >>= 7
  data.append(number)
  return bytes(data)


def read_varints(data: bytes, place: int, count: int) -> tuple[list[int], int]:
  """Reads numbers.

  Args:
    data: the bytes.
    place: where they begin.
    count: how many there are.

  Returns:
    The numbers, and the place after them.

  Raises:
    IndexError: they do not end, or are of more than 64 bits.
  """
  found = []
  for _ in range(count):
    byte = data[place]
    place += 1
    number, shift = byte & 127, 7
    while byte > 127:
      if shift > 63:
        raise IndexError
      byte = data[place]
      place += 1
      number |= (byte & 127) << shift
      shift += 7
    found.append(number)
  return found, place
