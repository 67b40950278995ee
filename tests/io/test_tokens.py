import binascii
import concurrent.futures
import dataclasses
import json
import pickle
import struct
import zlib

import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io import (
  images,
  token_codings,
  token_record,
  token_sets,
  tokens,
)

HEADER = tokens.Header(
  fingerprint='0123456789abcdef',
  tokenizer='tiny',
  image_size=8,
  channels=1,
  boundaries=(1, 5),
  tokens=5,
  num_codes=2,
  codebook_size=300,
  fit='tile',
  source='digits',
  split='train',
  records=7,
  num_classes=3,
  class_names=('a', 'b', 'c'),
)


def record(index, grid=(1, 1), seed=0, header=HEADER):
  rng = np.random.default_rng([seed, index])
  rows = grid[0] * grid[1]
  shape = (rows, header.num_tokens, header.num_codes)
  lengths = rng.choice(header.boundaries, rows).astype(np.int32)
  codes = rng.integers(0, header.codebook_size, shape).astype(np.int32)
  codes[np.arange(shape[1]) >= lengths[:, None]] = 0
  height, width = 8 * grid[0], 8 * grid[1]
  return tokens.Record(
    codes=codes,
    lengths=lengths,
    placement=images.Placement(
      policy=header.fit,
      original=(height, width),
      size=8,
      box=(0, 1, height, width),
      grid=grid,
    ),
    index=index,
    label=index % 4 - 1,
    view=index % 2,
    name=f'grüße {index}.png',
  )


RECORDS = [record(i, grid=(1 + i % 2, 1 + i % 3)) for i in range(7)]


def assert_same(a, b):
  np.testing.assert_array_equal(a.codes, b.codes)
  np.testing.assert_array_equal(a.lengths, b.lengths)
  assert a.codes.dtype == a.lengths.dtype == np.int32
  for name in ('placement', 'index', 'label', 'view', 'name'):
    assert getattr(a, name) == getattr(b, name)


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'deep' / 'x.tok'
  assert tokens.write(path, HEADER, iter(RECORDS)) == 7
  return path


def test_round_trip(file):
  found = tokens.Reader([file])
  assert found.header == HEADER and len(found) == 7
  for a, b in zip(found, RECORDS, strict=True):
    assert_same(a, b)
  for index in (-1, 7):
    with pytest.raises(IndexError):
      found[index]


def varints(data, count):
  """Reads numbers by hand; gives them and the rest."""
  found = []
  for _ in range(count):
    number = shift = 0
    while True:
      number |= (data[0] & 127) << shift
      shift, more, data = shift + 7, data[0] > 127, data[1:]
      if not more:
        break
    found.append(number)
  return found, data


def test_bytes_are_those_of_the_docstring(file):
  """Read by hand, from the tables alone."""
  data = file.read_bytes()
  magic, length, check = struct.unpack('<8sII', data[:16])
  assert magic == b'tokpress' == data[-8:]
  text = data[16 : 16 + length]
  assert zlib.crc32(text) == check
  body = json.loads(text)
  assert body['format'] == 2 and body['coding'] == 'plain'
  assert body['boundaries'] == [1, 5] and body['class_names'][2] == 'c'
  check, count = struct.unpack('<IQ', data[-20:-8])
  sizes = data[-20 - 4 * count : -20]
  assert count == 7 and zlib.crc32(sizes) == check
  sizes = struct.unpack('<7I', sizes)
  assert 16 + length + sum(sizes) == len(data) - 20 - 28
  want = RECORDS[5]  # 2 x 3 tiles
  start = 16 + length + sum(sizes[:5])
  part = data[start : start + sizes[5]]
  fields, rest = varints(part[2:], 12)
  assert fields == [5, 1, 1, 13, 16, 24, 0, 1, 16, 24, 2, 3]
  (first, *lengths), rest = varints(rest, 7)
  assert first == 0  # They differ.
  np.testing.assert_array_equal(lengths, want.lengths)
  assert rest[:13].decode() == 'grüße 5.png'
  assert binascii.crc_hqx(part[2 : -len(rest) + 13], 0) == int.from_bytes(
    part[:2], 'little'
  )
  codes = struct.unpack(f'<{2 * sum(lengths)}H', rest[17:])
  flat = [c for row, n in zip(want.codes, lengths, strict=True)
          for c in row[:n].ravel()]  # fmt: skip
  assert list(codes) == flat
  own = part[: -len(rest) + 13] + struct.pack(f'<{len(flat)}i', *flat)
  assert struct.unpack('<I', rest[13:17])[0] == zlib.crc32(own)


@pytest.mark.parametrize(
  'size, coding', [(2, 1), (256, 1), (257, 2), (65536, 2), (65537, 4)]
)
def test_codes_take_the_smallest_integer(tmp_path, size, coding):
  header = dataclasses.replace(
    HEADER, codebook_size=size, num_codes=1, fit='crop'
  )
  largest = record(0, header=header)
  largest = dataclasses.replace(
    largest,
    codes=np.full((1, 5, 1), size - 1, np.int32),
    lengths=np.array([5], np.int32),
  )
  lengths = []
  for count in (1, 2):
    tokens.write(tmp_path / 'x.tok', header, [largest] * count)
    lengths.append((tmp_path / 'x.tok').stat().st_size)
    assert_same(tokens.Reader([tmp_path / 'x.tok'])[0], largest)
  fixed = 2 + 12 + 1 + 4 + len(largest.name.encode())
  assert lengths[1] - lengths[0] == fixed + 5 * coding + 4  # and its size


CODINGS = ('plain', 'packed', 'adaptive')


def selected(index):
  """A record whose tokens come from any of the slots."""
  found = record(index, grid=(1, 1 + index % 2))
  rng = np.random.default_rng(index)
  slots = np.zeros(found.codes.shape[:2], np.int32)
  for row, n in zip(slots, found.lengths, strict=True):
    row[:n] = np.sort(rng.choice(5, n, replace=False))
  return dataclasses.replace(found, slots=slots)


@pytest.mark.parametrize('coding', CODINGS)
@pytest.mark.parametrize('digits', [(), (3, 10, 10)])
@pytest.mark.parametrize('selects', [False, True])
def test_codings_round_trip(tmp_path, coding, digits, selects):
  header = dataclasses.replace(
    HEADER, coding=coding, digits=digits, selects=selects
  )
  make = selected if selects else record
  written = [make(i) for i in range(90)]  # past the groups of 1, 2, ..., 64
  path = tmp_path / 'x.tok'
  tokens.write(path, header, iter(written))
  found = tokens.Reader([path])
  np.testing.assert_array_equal(found[89].codes, written[89].codes)
  for a, b in zip(found, written, strict=True):
    assert_same(a, b)
    if selects:
      np.testing.assert_array_equal(a.slots, b.slots)


@pytest.mark.parametrize('coding', CODINGS)
def test_more_symbols_than_one_number_holds(tmp_path, coding):
  header = dataclasses.replace(HEADER, coding=coding, digits=(3, 10, 10))
  # 30 x 30 squares of at most 5 tokens of 2 codes of 3 digits.
  written = [record(i, grid=(30, 30)) for i in range(2)]
  assert 6 * written[0].lengths.sum() > 2 * 4096
  path = tmp_path / 'x.tok'
  tokens.write(path, header, written)
  for a, b in zip(tokens.Reader([path]), written, strict=True):
    assert_same(a, b)


def test_a_thousand_images_of_mixed_sizes_are_as_long_as_their_information(
  tmp_path,
):
  """What the adaptive coding says they take, computed with logarithms."""
  header = dataclasses.replace(
    HEADER,
    boundaries=tuple(range(1, 17)),
    tokens=16,
    num_codes=1,
    fit='crop',
    digits=(3, 10, 10),
    coding='adaptive',
  )
  rng = np.random.default_rng(0)
  written, ideal = [], 0.0
  own, size, waiting = [np.zeros((16, v)) for v in (3, 10, 10)], 1, []
  for index in range(1000):
    n = int(rng.integers(1, 17))
    digits = np.minimum(rng.geometric(0.5, (n, 3)) - 1, (2, 9, 9))
    codes = np.zeros((1, 16, 1), np.int32)
    codes[0, :n, 0] = digits @ (1, 3, 30)
    shape = rng.integers(8, 900, 2).tolist()
    written.append(
      tokens.Record(
        codes=codes,
        lengths=np.array([n], np.int32),
        placement=images.Placement(
          policy='crop', original=tuple(shape), size=8, box=(0, 0, *shape)
        ),
        index=index,
      )
    )
    for counts, column in zip(own, digits.T, strict=True):
      shared = counts.sum(0) + 0.5
      mixed = counts[:n] + 16 * shared / shared.sum()
      p = mixed / mixed.sum(1, keepdims=True)
      ideal -= np.log2(p[np.arange(n), column]).sum()
    waiting.append(digits)
    if len(waiting) == size:
      for row in waiting:
        for counts, column in zip(own, row.T, strict=True):
          counts[np.arange(len(column)), column] += 1
      waiting, size = [], min(2 * size, 64)
  path = tmp_path / 'x.tok'
  tokens.write(path, header, written)
  for a, b in zip(tokens.Reader([path]), written, strict=True):
    assert_same(a, b)
  payload = bits = 0
  for one in token_codings.coding_of(header).encode(written):
    _, _, numbers = token_record.unpack_fields(one, header)
    payload += 8 * len(numbers)
    bits += int.from_bytes(numbers, 'little').bit_length()
  checks = 33 * 1000  # each number begins with its checksum
  assert abs(bits - checks - ideal) < 0.03 * ideal, (bits - checks, ideal)
  assert payload < bits + 8 * 1000  # whole bytes
  # The same by equal code lengths is a third longer.
  uniform = sum(r.lengths.sum() for r in written) * np.log2(300)
  assert uniform > 1.3 * ideal


def test_bytes_behind_the_end_are_named(file, tmp_path):
  longer = tmp_path / 'longer.tok'
  longer.write_bytes(file.read_bytes() + b'abc')
  with pytest.raises(UserError, match=r'has 3 bytes behind its end'):
    tokens.Reader([longer])


def test_no_file_is_no_set():
  with pytest.raises(UserError, match='no token file was given'):
    tokens.Reader([])


def test_a_cut_file_is_refused(file, tmp_path):
  data = file.read_bytes()
  cut = tmp_path / 'cut.tok'
  for length in [*range(8, len(data), 13), len(data) - 1]:
    cut.write_bytes(data[:length])
    with pytest.raises(UserError, match=r'cut\.tok was cut short'):
      tokens.Reader([cut])


@pytest.mark.parametrize('coding', CODINGS)
def test_a_flipped_bit_never_passes(tmp_path, coding):
  file = tmp_path / 'x.tok'
  tokens.write(file, dataclasses.replace(HEADER, coding=coding), RECORDS)
  data = file.read_bytes()
  bad = tmp_path / 'bad.tok'
  rng = np.random.default_rng(0)
  frame = [*range(16), *range(len(data) - 90, len(data))]
  for place in [*frame, *rng.choice(len(data), 300, replace=False)]:
    changed = bytearray(data)
    changed[place] ^= 1 << rng.integers(8)
    bad.write_bytes(changed)
    with pytest.raises(UserError, match=r'bad\.tok'):
      list(tokens.Reader([bad]))


@pytest.mark.parametrize(
  'data, message',
  [
    (b'', 'no token file .it is empty'),
    (
      b'\x89PNG\r\n\x1a\n' + bytes(99),
      r"no token file .it begins with b'\\x89",
    ),
    (b'PK\x03\x04' + bytes(99), 'no token file'),
    (None, 'There is no token file'),
    ('directory', 'is a directory'),
  ],
)
def test_foreign_files(tmp_path, data, message):
  path = tmp_path / 'foreign'
  if data == 'directory':
    path.mkdir()
  elif data is not None:
    path.write_bytes(data)
  with pytest.raises(UserError, match=message):
    tokens.Reader([path])


def with_header(path, change):
  """Writes a file whose header's JSON is changed, all checksums right."""
  tokens.write(path, HEADER, [])
  data = path.read_bytes()
  length = struct.unpack('<I', data[8:12])[0]
  body = json.loads(data[16 : 16 + length])
  change(body)
  text = json.dumps(body).encode()
  head = struct.pack('<8sII', b'tokpress', len(text), zlib.crc32(text))
  path.write_bytes(head + text + data[16 + length :])


@pytest.mark.parametrize(
  'change, message',
  [
    ({'format': 1}, r'has format 1.* reads format 2'),
    ({'coding': 'arithmetic'}, "coding 'arithmetic'"),
    ({'digits': [7, 40]}, r'digits \(7, 40\) of 300 codes'),
    ({'colour': 'red'}, "header that is none.*'colour'"),
    ({'boundaries': None}, None),
  ],
)
def test_headers_of_other_versions(tmp_path, change, message):
  path = tmp_path / 'x.tok'
  if message is None:
    with_header(path, lambda body: body.pop('boundaries'))
    message = 'header that is none.*boundaries'
  else:
    with_header(path, lambda body: body.update(change))
  with pytest.raises(UserError, match=message):
    tokens.Reader([path])


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'codebook_size': 299}, r'record 0 holds the code 299, .* 299 codes'),
    ({'num_classes': 2}, 'record 0 has the class 2 of 2'),
    ({'boundaries': (1, 4)}, 'record 0 has a square of 5 tokens'),
    ({'num_codes': 1}, 'record 0 holds 20 bytes .* take 10'),
  ],
)
def test_records_that_do_not_fit_the_header(tmp_path, fields, message):
  path = tmp_path / 'x.tok'
  codes = np.full((1, 5, 2), 299, np.int32)
  wrong = dataclasses.replace(
    record(3), codes=codes, lengths=np.array([5]), label=2
  )
  tokens.write(path, HEADER, [wrong])
  with_fields = lambda body: body.update(fields)
  data = path.read_bytes()
  length = struct.unpack('<I', data[8:12])[0]
  body = json.loads(data[16 : 16 + length])
  with_fields(body)
  text = json.dumps(body).encode()
  # As long as before, so that the places stay right.
  text = text[:-1] + b' ' * (length - len(text)) + b'}'
  assert len(text) == length
  head = struct.pack('<8sII', b'tokpress', length, zlib.crc32(text))
  path.write_bytes(head + text + data[16 + length :])
  with pytest.raises(UserError, match=message):
    tokens.Reader([path])[0]


def test_what_is_interrupted_does_not_look_whole(tmp_path):
  path = tmp_path / 'x.tok'

  def broken():
    yield RECORDS[0]
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    tokens.write(path, HEADER, broken())
  assert list(tmp_path.iterdir()) == []
  tokens.write(path, HEADER, RECORDS)
  with pytest.raises(KeyboardInterrupt):  # what was there stays
    tokens.write(path, HEADER, broken())
  assert len(tokens.Reader([path])) == 7 and list(tmp_path.iterdir()) == [path]


def test_only_token_files_are_replaced(file, tmp_path):
  assert tokens.write(file, HEADER, RECORDS[:2]) == 2
  assert len(tokens.Reader([file])) == 2
  other = tmp_path / 'notes.txt'
  other.write_text('hello')
  with pytest.raises(UserError, match=r'notes\.txt exists and is no token'):
    tokens.write(other, HEADER, RECORDS)
  with pytest.raises(UserError, match='Cannot write'):
    tokens.write(other / 'x.tok', HEADER, RECORDS)
  assert other.read_text() == 'hello'


def test_several_files_are_one_sequence(tmp_path):
  paths = []
  for shard, (first, last) in enumerate(((0, 3), (3, 3), (3, 7))):
    header = dataclasses.replace(HEADER, shard=(shard, 3))
    paths.append(token_sets.shard_path(tmp_path, 'train', shard, 3))
    tokens.write(paths[-1], header, RECORDS[first:last])
  assert token_sets.find(tmp_path, 'train') == tuple(paths)
  found = tokens.Reader(paths)
  copy = pickle.loads(pickle.dumps(found))
  with concurrent.futures.ThreadPoolExecutor(4) as pool:
    order = np.random.default_rng(0).integers(0, 7, 100).tolist()
    for index, a in zip(order, pool.map(found.__getitem__, order), strict=True):
      assert_same(a, RECORDS[index])
      assert_same(copy[index], RECORDS[index])
  assert found.where(3) == f'{paths[2]}, record 0'
  other = dataclasses.replace(HEADER, flip=True, shard=(1, 3))
  tokens.write(paths[1], other, [])
  with pytest.raises(UserError, match='not of one set: flip: False, True'):
    tokens.Reader(paths)


def test_sets_that_are_not_there_or_not_whole(tmp_path):
  with pytest.raises(UserError, match='no directory of tokens'):
    token_sets.find(tmp_path / 'none', 'train')
  with pytest.raises(UserError, match=r"no tokens of a split 'train'.*none"):
    token_sets.find(tmp_path, 'train')
  write = lambda i, n: tokens.write(
    token_sets.shard_path(tmp_path, 'train', i, n), HEADER, RECORDS
  )
  write(1, 3)
  with pytest.raises(UserError, match=r"'trian'\. Did you mean 'train'"):
    token_sets.find(tmp_path, 'trian')
  with pytest.raises(UserError, match=r'of 3 files 2 are missing \(0, 2\)'):
    token_sets.find(tmp_path, 'train')
  write(0, 2)
  with pytest.raises(UserError, match=r'two sets .* of 2 and 3 files'):
    token_sets.find(tmp_path, 'train')
  assert token_sets.list_sets(tmp_path) == {'train': {2: [0], 3: [1]}}


def test_the_tokenizer_must_be_the_one_that_encoded():
  class Config:
    boundaries = (1, 5)
    codebook_size = 300

    class quantizer:  # noqa: N801
      num_codes = 2

  HEADER.check_tokenizer('x.tok', Config, HEADER.fingerprint)
  with pytest.raises(UserError, match=r'another tokenizer .*tiny.* has 77'):
    HEADER.check_tokenizer('x.tok', Config, '77')
  Config.boundaries = (1, 2, 5)
  with pytest.raises(UserError, match=r'\(1, 5\).*\(1, 2, 5\)'):
    HEADER.check_tokenizer('x.tok', Config, HEADER.fingerprint)
