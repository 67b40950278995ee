import importlib.util
import io
import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.data import builders, storage
from tokpress_jax.io import images


def write_dataset(root, name='animals', config=None, version='1.0.0'):
  """Writes TFDS's own layout: 20 images in three ArrayRecord shards."""
  import tensorflow_datasets as tfds

  def info(self):
    return tfds.core.DatasetInfo(
      builder=self,
      description='Twenty   plain\nsquares.',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(shape=(None, None, 3)),
          'label': tfds.features.ClassLabel(names=['cat', 'dog']),
          'file_name': tfds.features.Text(),
        }
      ),
    )

  def examples(self, count):
    for number in range(count):
      png = images.encode_png(np.full((4, 6, 3), number, np.uint8))
      yield (
        number,
        {
          'image': io.BytesIO(png),
          'label': number % 2,
          'file_name': f'{number}.png',
        },
      )

  members = {
    'name': name,
    'VERSION': tfds.core.Version(version),
    'code_path': None,
    '_info': info,
    '_split_generators': lambda self, dl_manager: {
      'train': examples(self, 20),
      'validation': examples(self, 4),
    },
    '_generate_examples': examples,
  }
  if config:
    members['BUILDER_CONFIGS'] = [tfds.core.BuilderConfig(name=config)]
  bases = (tfds.core.GeneratorBasedBuilder,)
  made = type(name.title(), bases, members, skip_registration=True)
  builder = made(data_dir=str(root), file_format='array_record')
  builder.download_and_prepare(
    download_config=tfds.download.DownloadConfig(num_shards=3)
  )
  return pathlib.Path(builder.data_path)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  write_dataset(root)
  write_dataset(root, 'plants', config='small')
  return root


def config(root, name='animals', **fields):
  return data.DataConfig(name=name, data_dir=str(root), **fields)


def test_a_directory_in_tfds_layout_is_read(root):
  dataset = data.open_dataset(config(root))
  info = dataset.info
  assert (len(dataset), info.num_classes, info.channels) == (20, 2, 3)
  assert info.class_names == ('cat', 'dog') and info.image_size is None
  assert info.splits == (('train', 20), ('validation', 4))
  assert info.description == 'Twenty plain squares.'
  records = [dataset[index] for index in range(20)]
  values = [int(record['image'][0, 0, 0]) for record in records]
  assert sorted(values) == list(range(20))
  for record, value in zip(records, values, strict=True):
    assert record['image'].shape == (4, 6, 3)
    assert int(record['label']) == value % 2
  with pytest.raises(IndexError, match='20 records, 0 to 19; record 20'):
    dataset[20]


def test_its_batches(root):
  stream = data.Stream(config(root, image_size=4), batch_size=4, seed=0)
  assert stream.batch_at(0)['image'].shape == (4, 4, 4, 3)
  assert stream.info.image_size == 4


def test_slices_of_splits(root):
  dataset = data.open_dataset(config(root), 'train[50%:]')
  whole = data.open_dataset(config(root), 'train')
  assert len(dataset) == 10
  for index in range(10):
    np.testing.assert_array_equal(
      dataset[index]['image'], whole[index + 10]['image']
    )
    assert dataset.where(index) == whole.where(index + 10)


def test_names_with_config_and_version(root):
  for name in ('plants', 'plants/small', 'plants/small:1.0.0', 'plants:1.0.0'):
    assert len(data.open_dataset(config(root, name))) == 20
  assert storage.find('plants:2.0.0', str(root)) is None
  assert storage.find('plants/large', str(root)) is None


def test_one_of_several_configs_must_be_named(tmp_path):
  for place in ('birds/small/1.0.0', 'birds/large/2.0.0'):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / 'dataset_info.json').write_text('{}')
  with pytest.raises(data.DataError, match='name birds/large, birds/small'):
    storage.find('birds', str(tmp_path))
  assert storage.find('birds/small', str(tmp_path)).name == '1.0.0'


def test_the_newest_version_is_taken(tmp_path):
  for version in ('1.0.0', '9.0.0', '10.0.0'):
    directory = tmp_path / 'birds' / version
    directory.mkdir(parents=True)
    (directory / 'dataset_info.json').write_text('{}')
  assert storage.find('birds', str(tmp_path)).name == '10.0.0'


def test_wrong_names_of_splits_and_features(root):
  with pytest.raises(data.DataError, match=r"'trian'.*Did you mean 'train'"):
    data.open_dataset(config(root), 'trian')
  with pytest.raises(data.DataError, match=r"no split 'train\[5:x\]'"):
    data.open_dataset(config(root), 'train[5:x]')
  with pytest.raises(data.DataError, match="no image feature 'picture'"):
    data.open_dataset(config(root, image_key='picture'))
  unlabelled = data.open_dataset(config(root, label_key='species'))
  assert unlabelled.info.num_classes == 0 and unlabelled[0]['label'] == -1


def test_a_damaged_record_names_file_and_record(tmp_path):
  directory = write_dataset(tmp_path)
  shard = sorted(directory.glob('animals-train*'))[1]
  content = shard.read_bytes()
  assert content.count(b'IDAT') == 6
  shard.write_bytes(content.replace(b'IDAT', b'XDAT', 1))
  dataset = data.open_dataset(config(tmp_path))
  failures = []
  for index in range(20):
    try:
      dataset[index]
    except ValueError as error:
      failures.append(str(error))
  (message,) = failures
  assert f'{shard.name}, record' in message


def test_a_truncated_shard_names_the_file(tmp_path):
  directory = write_dataset(tmp_path)
  shard = sorted(directory.glob('animals-train*'))[1]
  shard.write_bytes(shard.read_bytes()[:1000])
  with pytest.raises(data.DataError, match=shard.name):
    dataset = data.open_dataset(config(tmp_path))
    for index in range(20):
      dataset[index]


def to_tfrecord(directory):
  """Rewrites ArrayRecord shards as TFDS's TFRecord files (checksums 0)."""
  from array_record.python import array_record_data_source

  for shard in list(directory.glob('*.array_record*')):
    source = array_record_data_source.ArrayRecordDataSource(str(shard))
    records = [source[index] for index in range(len(source))]
    shard.with_name(shard.name.replace('array_record', 'tfrecord')).write_bytes(
      b''.join(
        struct.pack('<QI', len(record), 0) + record + struct.pack('<I', 0)
        for record in records
      )
    )
    shard.unlink()
  info = directory / 'dataset_info.json'
  content = json.loads(info.read_text())
  info.write_text(json.dumps({**content, 'fileFormat': 'tfrecord'}))


def test_tfrecord_files_ask_for_the_command_which_converts(tmp_path):
  directory = write_dataset(tmp_path)
  before = data.open_dataset(config(tmp_path))
  expected = [before[index] for index in range(20)]
  to_tfrecord(directory)
  with pytest.raises(data.DataError) as error:
    data.open_dataset(config(tmp_path))
  command = f'`tokpress data prepare animals --data-dir {tmp_path}`'
  assert command in str(error.value) and 'tfrecord' in str(error.value)
  assert data.prepare('animals', str(tmp_path)) == directory
  after = data.open_dataset(config(tmp_path))
  assert len(after) == 20 and 'array_record' in after.where(0)
  for index in range(20):
    np.testing.assert_array_equal(
      after[index]['image'], expected[index]['image']
    )
    assert after[index]['label'] == expected[index]['label']
  assert len(list(directory.glob('*.tfrecord*'))) == 6
  assert not list(directory.glob('.*'))


@pytest.mark.parametrize('damage', ['truncated', 'short', 'missing'])
def test_a_failed_conversion_is_not_taken(tmp_path, damage):
  directory = write_dataset(tmp_path)
  to_tfrecord(directory)
  shard = sorted(directory.glob('animals-train*'))[1]
  content = shard.read_bytes()
  if damage == 'missing':
    shard.unlink()
  elif damage == 'truncated':
    shard.write_bytes(content[:-3])
  else:
    length = struct.unpack('<Q', content[:8])[0]
    shard.write_bytes(content[length + 16 :])
  with pytest.raises(data.DataError, match=shard.name):
    data.prepare('animals', str(tmp_path))
  assert storage.stored_format(directory) == 'tfrecord'
  assert not list(directory.glob('.*'))


def test_an_older_version_of_an_embedded_set_is_not_taken(
  tmp_path, monkeypatch
):
  old = data.prepare('digits', str(tmp_path))
  made = builders.builder_class('digits')
  monkeypatch.setattr(made, 'VERSION', type(made.VERSION)('1.1.0'))
  new = data.prepare('digits', str(tmp_path))
  assert (old.name, new.name) == ('1.0.0', '1.1.0') and old.exists()


def test_a_known_name_that_is_not_prepared(tmp_path):
  with pytest.raises(data.DataError, match='`tokpress data prepare cifar10'):
    data.open_dataset(config(tmp_path, 'cifar10'))


@pytest.mark.parametrize(
  'typo, meant', [('digist', 'digits'), ('CIFAR1O', 'cifar10')]
)
def test_a_typo_gets_a_suggestion(tmp_path, typo, meant):
  with pytest.raises(data.DataError, match=f"Did you mean .*'{meant}'"):
    data.open_dataset(config(tmp_path, typo))
  with pytest.raises(data.DataError, match=f"Did you mean .*'{meant}'"):
    data.prepare(typo, str(tmp_path))


def test_preparing_without_tensorflow_names_the_extra(tmp_path, monkeypatch):
  find_spec = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *rest: (
      None if name == 'tensorflow' else find_spec(name, *rest)
    ),
  )
  with pytest.raises(data.DataError, match=r"'tokpress-jax\[prepare\]'"):
    data.prepare('cifar10', str(tmp_path))


def test_a_folder_needs_no_preparation(tmp_path):
  with pytest.raises(data.DataError, match='no preparation'):
    data.prepare('folder', str(tmp_path))


def test_where_data_lie(monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', '/caches')
  monkeypatch.delenv('TOKPRESS_DATA_DIR', raising=False)
  assert storage.data_root() == pathlib.Path('/caches/tokpress_jax')
  monkeypatch.setenv('TOKPRESS_DATA_DIR', '/data')
  assert storage.data_root() == pathlib.Path('/data')
  assert storage.data_root('~/here') == pathlib.Path.home() / 'here'


def test_a_directory_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(data.DataError, match=r'Cannot write.*TOKPRESS_DATA_DIR'):
    data.prepare('digits', str(tmp_path / 'file'))


def test_racing_processes_prepare_once(tmp_path):
  code = (
    'import sys; from tokpress_jax import data\n'
    'config = data.DataConfig(data_dir=sys.argv[1])\n'
    'print(len(data.open_dataset(config)))'
  )
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
  racers = [
    subprocess.Popen(
      [sys.executable, '-c', code, str(tmp_path)],
      env=environment,
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  assert [racer.communicate()[0] for racer in racers] == ['1500\n'] * 2
  assert os.listdir(tmp_path) == ['digits']
  assert os.listdir(tmp_path / 'digits') == ['1.0.0']


def test_a_lost_race_takes_the_winners_files(tmp_path, monkeypatch):
  winner = data.prepare('digits', str(tmp_path))
  before = (winner / 'dataset_info.json').stat().st_ino
  # This one looks before the winner is there.
  looks = iter([False])
  exists = pathlib.Path.exists
  monkeypatch.setattr(
    pathlib.Path,
    'exists',
    lambda path: next(looks, True) and exists(path),
  )
  assert data.prepare('digits', str(tmp_path)) == winner
  assert next(looks, None) is None
  assert (winner / 'dataset_info.json').stat().st_ino == before
  assert os.listdir(tmp_path) == ['digits']


def test_a_failed_preparation_leaves_nothing(tmp_path, monkeypatch):
  made = builders.builder_class('digits')

  def fail(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(made, '_generate_examples', fail)
  with pytest.raises(KeyboardInterrupt):
    data.prepare('digits', str(tmp_path))
  assert os.listdir(tmp_path) == []
