import dataclasses
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.io import images


def first(iterator, count):
  return list(itertools.islice(iterator, count))


def assert_same(left, right):
  assert len(left) == len(right)
  for a, b in zip(left, right, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Thirteen images of many sizes in two classes."""
  root = tmp_path_factory.mktemp('images')
  random = np.random.RandomState(0)
  for number in range(13):
    place = root / 'train' / f'class_{number % 2}'
    place.mkdir(parents=True, exist_ok=True)
    shape = (*random.randint(6, 30, 2), 3)
    pixels = random.randint(0, 256, shape).astype(np.uint8)
    (place / f'{number:02}.png').write_bytes(images.encode_png(pixels))
  return root


@pytest.fixture(scope='module')
def config(folder):
  """Everything random is on."""
  return data.DataConfig(
    name='folder',
    data_dir=str(folder),
    eval_split='train',
    image_size=8,
    flip=True,
    random_crop=True,
  )


@pytest.fixture(scope='module')
def expected(config):
  """The first ten global batches: epochs end inside them."""
  stream = data.Stream(config, batch_size=8, seed=3)
  return [stream.batch_at(step) for step in range(10)]


def test_contents(expected):
  batch = expected[0]
  shapes = {key: (value.shape, value.dtype) for key, value in batch.items()}
  assert shapes == {
    'image': ((8, 8, 8, 3), np.dtype('uint8')),
    'label': ((8,), np.dtype('int32')),
    'index': ((8,), np.dtype('int64')),
    'valid': ((8,), np.dtype('bool')),
  }
  assert batch['valid'].all()


def test_every_epoch_sees_every_record_once_in_a_new_order(expected):
  order = np.concatenate([batch['index'] for batch in expected])
  epochs = order[: 13 * 6].reshape(6, 13)
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(13))
  assert len({tuple(epoch) for epoch in epochs}) == 6


def test_augmentation_is_new_at_every_visit(expected):
  pictures = [
    picture.tobytes()
    for batch in expected
    for picture, index in zip(batch['image'], batch['index'], strict=True)
    if index == 5
  ]
  assert len(set(pictures)) > 1


@pytest.mark.parametrize('hosts', [1, 2, 4])
def test_hosts_share_the_same_global_batch(config, expected, hosts):
  streams = [
    data.Stream(
      config, batch_size=8, seed=3, process_index=host, process_count=hosts
    )
    for host in range(hosts)
  ]
  parts = zip(*(first(stream.batches(), 10) for stream in streams), strict=True)
  joined = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in parts
  ]
  assert_same(joined, expected)


@pytest.mark.parametrize('start', [1, 7])
def test_resume_needs_the_step_only(config, expected, start):
  stream = data.Stream(config, batch_size=8, seed=3)
  assert_same(first(stream.batches(start), 10 - start), expected[start:])


def test_far_steps_are_reached_at_once(config):
  stream = data.Stream(config, batch_size=8, seed=3)
  step = 10**9
  assert_same(first(stream.batches(step), 1), [stream.batch_at(step)])


@pytest.mark.filterwarnings('ignore::DeprecationWarning')  # fork in threads
def test_workers_change_nothing(config, expected):
  from absl import flags

  assert not flags.FLAGS.is_parsed()  # as in any program but absl.app's
  try:
    with_workers = dataclasses.replace(config, workers=2)
    stream = data.Stream(with_workers, batch_size=8, seed=3)
    batches = stream.batches(2)
    assert_same(first(batches, 5), expected[2:7])
    batches.close()
  finally:
    flags.FLAGS.unparse_flags()


def test_one_record_is_enough(tmp_path):
  (tmp_path / 'only.png').write_bytes(
    images.encode_png(np.full((1, 1, 1), 7, np.uint8))
  )
  config = data.DataConfig(
    name='folder', data_dir=str(tmp_path), split='all', image_size=2
  )
  batch = data.Stream(config, batch_size=3, seed=0).batch_at(1)
  assert (batch['image'] == 7).all() and (batch['index'] == 0).all()


def test_another_seed_is_another_order(config, expected):
  other = data.Stream(config, batch_size=8, seed=4).batch_at(0)
  assert (other['index'] != expected[0]['index']).any()


def test_a_cache_changes_nothing(config, expected):
  uncached = dataclasses.replace(config, cache_mib=0)
  stream = data.Stream(uncached, batch_size=8, seed=3)
  assert_same(first(stream.batches(), 10), expected)


def test_without_shuffle_records_come_in_order(config):
  ordered = dataclasses.replace(config, shuffle=False)
  batch = data.Stream(ordered, batch_size=16, seed=0).batch_at(0)
  np.testing.assert_array_equal(batch['index'], [*range(13), 0, 1, 2])


def test_a_batch_must_divide_among_hosts(config):
  with pytest.raises(data.DataError, match=r'8 images.*3 hosts'):
    data.Stream(config, batch_size=8, seed=0, process_count=3)
  with pytest.raises(data.DataError, match='0 images'):
    data.eval_batches(config, batch_size=0)


def test_a_size_must_be_set_for_images_of_many_sizes(folder):
  config = data.DataConfig(name='folder', data_dir=str(folder))
  with pytest.raises(data.DataError, match=r'set data.image_size'):
    data.Stream(config, batch_size=8, seed=0)


@pytest.mark.parametrize('hosts', [1, 2])
def test_evaluation_sees_every_record_once_and_masks_the_rest(config, hosts):
  parts = [
    list(
      data.eval_batches(
        config, batch_size=4, process_index=host, process_count=hosts
      )
    )
    for host in range(hosts)
  ]
  assert [len(part) for part in parts] == [4] * hosts
  joined = [
    {key: np.concatenate([part[key] for part in step]) for key in step[0]}
    for step in zip(*parts, strict=True)
  ]
  valid = np.concatenate([batch['valid'] for batch in joined])
  index = np.concatenate([batch['index'] for batch in joined])
  np.testing.assert_array_equal(valid, [True] * 13 + [False] * 3)
  np.testing.assert_array_equal(index, [*range(13), -1, -1, -1])
  assert (joined[-1]['image'][1:] == 0).all()
  assert (joined[-1]['label'][1:] == -1).all()


@pytest.fixture
def damaged(tmp_path):
  """Six images, of which 2 and 3 cannot be read."""
  place = tmp_path / 'train' / 'only'
  place.mkdir(parents=True)
  for number in range(6):
    pixels = np.full((8, 8, 3), number, np.uint8)
    (place / f'{number}.png').write_bytes(images.encode_png(pixels))
  whole = (place / '2.png').read_bytes()
  (place / '2.png').write_bytes(whole[: len(whole) // 2])
  (place / '3.png').write_text('no image')
  return data.DataConfig(
    name='folder', data_dir=str(tmp_path), eval_split='train', image_size=8
  )


def test_a_damaged_image_stops_with_its_name(damaged):
  stream = data.Stream(damaged, batch_size=6, seed=0)
  with pytest.raises(images.ImageError, match=r'[23]\.png \(record [23]\)'):
    next(stream.batches())
  with pytest.raises(images.ImageError, match=r'2\.png \(record 2\)'):
    list(data.eval_batches(damaged, batch_size=6))


def test_skipping_is_a_function_of_the_step_and_counted(damaged, caplog):
  config = dataclasses.replace(damaged, on_error='skip', shuffle=False)
  stream = data.Stream(config, batch_size=6, seed=0)
  batches = first(stream.batches(), 3)
  for batch in batches:
    # The next readable record takes the place of an unreadable one.
    np.testing.assert_array_equal(batch['index'], [0, 1, 4, 4, 4, 5])
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], batch['index'])
  assert stream.skipped == {2, 3}
  assert len(caplog.records) == 2 and '2.png' in caplog.text
  halves = [
    data.Stream(
      config, batch_size=6, seed=0, process_index=host, process_count=2
    ).batch_at(2)
    for host in range(2)
  ]
  index = np.concatenate([half['index'] for half in halves])
  np.testing.assert_array_equal(index, batches[2]['index'])


def test_evaluation_masks_what_it_skips(damaged, caplog):
  config = dataclasses.replace(damaged, on_error='skip')
  (batch,) = data.eval_batches(config, batch_size=6)
  np.testing.assert_array_equal(batch['valid'], [1, 1, 0, 0, 1, 1])
  assert '2.png' in caplog.text and '(2 so far)' in caplog.text


def test_nothing_readable_is_an_error(tmp_path):
  for name in 'ab':
    (tmp_path / f'{name}.png').write_text('no image')
  config = data.DataConfig(
    name='folder',
    data_dir=str(tmp_path),
    split='all',
    image_size=8,
    on_error='skip',
  )
  with pytest.raises(data.DataError, match='None of the 2 records'):
    data.Stream(config, batch_size=2, seed=0).batch_at(0)


def test_importing_is_cheap():
  code = (
    'import sys, tokpress_jax.data\n'
    'heavy = {"grain", "tensorflow_datasets", "sklearn", "skimage", "orbax"}\n'
    'assert not heavy & set(sys.modules), heavy & set(sys.modules)'
  )
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  subprocess.run([sys.executable, '-c', code], check=True, env=environment)
