"""Token files as a data set: batches as exact as those of images."""

import dataclasses
import itertools

import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.errors import UserError
from tokpress_jax.io import images, token_sets, tokens

HEADER = tokens.Header(
  fingerprint='0123456789abcdef',
  tokenizer='tiny',
  image_size=8,
  channels=1,
  boundaries=(1, 5),
  tokens=5,
  num_codes=2,
  codebook_size=300,
  source='digits',
  split='train',
  records=13,
  num_classes=3,
  class_names=('a', 'b', 'c'),
)
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 300, (13, 1, 5, 2)).astype(np.int32)
PLACE = images.Placement(
  policy='crop', original=(8, 8), size=8, box=(0, 0, 8, 8)
)


def write(root, codes, split='train', shards=3, place=PLACE, header=HEADER):
  for shard in range(shards):
    records = [
      tokens.Record(
        codes=codes[i],
        lengths=np.full(len(codes[i]), 5),
        placement=place,
        index=100 + i,
        label=i % 3,
      )
      for i in range(len(codes) * shard // shards,
                     len(codes) * (shard + 1) // shards)
    ]  # fmt: skip
    tokens.write(
      token_sets.shard_path(root, split, shard, shards),
      dataclasses.replace(header, shard=(shard, shards)),
      records,
    )
  return root


def config(root, **fields):
  return data.DataConfig(name='tokens', data_dir=str(root), **fields)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('tokens')
  write(root, CODES)
  return write(root, CODES[:5], split='test', shards=1)


@pytest.fixture(scope='module')
def expected(root):
  stream = data.Stream(config(root), batch_size=8, seed=3)
  return [stream.batch_at(step) for step in range(8)]


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_batches_hold_the_codes(expected):
  shapes = {k: (v.shape, v.dtype) for k, v in expected[0].items()}
  assert shapes == {
    'codes': ((8, 5, 2), np.dtype('int32')),
    'label': ((8,), np.dtype('int32')),
    'index': ((8,), np.dtype('int64')),
    'valid': ((8,), np.dtype('bool')),
  }
  for batch in expected:
    np.testing.assert_array_equal(batch['codes'], CODES[batch['index'], 0])
    np.testing.assert_array_equal(batch['label'], batch['index'] % 3)
  first = np.concatenate([b['index'] for b in expected])[:13]
  np.testing.assert_array_equal(np.sort(first), np.arange(13))


def test_the_order_is_that_of_any_data_set(root, expected, tmp_path):
  """Images in the place of codes: the same records at the same steps."""
  for number in range(13):
    pixels = np.full((8, 8, 1), number, np.uint8)
    path = tmp_path / f'{number:02}.png'
    path.write_bytes(images.encode_png(pixels))
  folder = data.DataConfig(
    name='folder', data_dir=str(tmp_path), split='all', image_size=8
  )
  stream = data.Stream(folder, batch_size=8, seed=3)
  for step, batch in enumerate(expected):
    np.testing.assert_array_equal(
      batch['index'], stream.batch_at(step)['index']
    )


@pytest.mark.parametrize('hosts', [2, 4])
def test_hosts_and_resumes(root, expected, hosts):
  streams = [
    data.Stream(
      config(root),
      batch_size=8,
      seed=3,
      process_index=host,
      process_count=hosts,
    )
    for host in range(hosts)
  ]
  parts = zip(
    *(itertools.islice(stream.batches(2), 6) for stream in streams), strict=True
  )
  joined = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in parts
  ]
  assert_same(joined, expected[2:])


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # fork in threads
def test_workers_change_nothing(root, expected):
  from absl import flags

  try:
    stream = data.Stream(config(root, workers=1), batch_size=8, seed=3)
    batches = stream.batches()
    assert_same(list(itertools.islice(batches, 8)), expected)
    batches.close()
  finally:
    flags.FLAGS.unparse_flags()


def test_evaluation_reads_each_record_once(root):
  one, two = data.eval_batches(config(root), batch_size=3)
  np.testing.assert_array_equal(one['codes'], CODES[:3, 0])
  np.testing.assert_array_equal(two['codes'][:2], CODES[3:5, 0])
  np.testing.assert_array_equal(two['valid'], [1, 1, 0])
  assert (two['codes'][2] == 0).all() and two['label'][2] == -1


def test_tiles_are_drawn_in_training_and_fixed_in_evaluation(tmp_path):
  header = dataclasses.replace(HEADER, fit='tile')
  place = dataclasses.replace(PLACE, policy='tile', grid=(2, 2))
  codes = RNG.integers(0, 300, (3, 4, 5, 2)).astype(np.int32)
  write(tmp_path, codes, place=place, header=header, shards=1)
  (batch,) = data.eval_batches(config(tmp_path), split='train', batch_size=3)
  np.testing.assert_array_equal(
    batch['codes'], [codes[0, 0], codes[1, 1], codes[2, 2]]
  )
  stream = data.Stream(config(tmp_path), batch_size=30, seed=0)
  batch = stream.batch_at(0)
  seen = set()
  for index, row in zip(batch['index'], batch['codes'], strict=True):
    (tile,) = np.flatnonzero((codes[index] == row).all(axis=(1, 2)))
    seen.add((int(index), int(tile)))
  assert len(seen) > 8


def test_what_there_is_to_know(root):
  info = data.open_dataset(config(root)).info
  assert info.num_records == 13 and info.num_classes == 3
  assert info.splits == (('test', 5), ('train', 13)) and info.tokens == (
    dataclasses.replace(HEADER, shard=(0, 3))
  )
  text = data.describe(config(root))
  for part in (
    'Tokens of digits, split train',
    '5 of 300 codes, by tiny (fingerprint 0123456789abcdef)',
    '8 x 8, 1 channel(s), fit crop',
    'train    13 records, trained on',
    'classes  3: a, b, c',
  ):
    assert part in text


def test_a_damaged_record(root, tmp_path, caplog):
  write(tmp_path, CODES, shards=1)
  path = token_sets.shard_path(tmp_path, 'train', 0, 1)
  whole = bytearray(path.read_bytes())
  stored = CODES[4].astype('<u2').tobytes()
  place = whole.index(stored)
  whole[place] ^= 1
  path.write_bytes(whole)
  ordered = config(tmp_path, shuffle=False)
  stream = data.Stream(ordered, batch_size=13, seed=0)
  with pytest.raises(UserError, match=r'\.tok, record 4 is damaged'):
    stream.batch_at(0)
  skipping = dataclasses.replace(ordered, on_error='skip')
  batch = data.Stream(skipping, batch_size=13, seed=0).batch_at(0)
  assert batch['index'].tolist() == [0, 1, 2, 3, 5, 5, *range(6, 13)]
  assert 'record 4' in caplog.text


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'split': 'trian'}, "Did you mean 'train'"),
    ({'image_size': 16}, r'image_size=16 \(there 8\)'),
    ({'channels': 3}, r'channels=3 \(there 1\)'),
  ],
)
def test_what_is_wrong_is_said(root, fields, message):
  with pytest.raises(UserError, match=message):
    data.open_dataset(config(root, **fields))


def test_tokens_cannot_be_augmented_or_prepared(root):
  for field in ('flip', 'random_crop'):
    with pytest.raises(data.DataError, match='tokpress encode --flip --crops'):
      config(root, **{field: True})
  with pytest.raises(data.DataError, match='needs data_dir'):
    data.DataConfig(name='tokens')
  with pytest.raises(data.DataError, match='tokpress encode MODEL'):
    data.prepare('tokens')
  with pytest.raises(UserError, match='no directory of tokens'):
    data.open_dataset(config(root / 'none'))
