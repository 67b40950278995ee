import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.io import images


def fill(root, names, shape=(6, 4, 3)):
  for number, name in enumerate(names):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(images.encode_png(np.full(shape, number, np.uint8)))


def config(root, **fields):
  return data.DataConfig(name='folder', data_dir=str(root), **fields)


def test_split_folders(tmp_path):
  fill(tmp_path, ['train/cat/1.png', 'train/dog/2.PNG', 'train/dog/deep/3.png'])
  fill(tmp_path, ['test/dog/1.png'], shape=(5, 5, 1))
  train = data.open_dataset(config(tmp_path))
  assert [int(train[index]['label']) for index in range(3)] == [0, 1, 1]
  assert train.info.class_names == ('cat', 'dog')
  test = data.open_dataset(config(tmp_path), 'test')
  assert test.info.class_names == ('cat', 'dog')  # one meaning of a label
  assert int(test[0]['label']) == 1 and test[0]['image'].shape == (5, 5, 3)
  assert train.info.splits == (('test', 1), ('train', 3))


def test_a_tenth_of_every_class_is_held_out(tmp_path):
  fill(tmp_path, [f'{name}/{i}.png' for name in 'ab' for i in range(20)])
  train, test, every = (
    data.open_dataset(config(tmp_path), name)
    for name in ('train', 'test', 'all')
  )
  names = [
    {dataset.read(index)[0] for index in range(len(dataset))}
    for dataset in (train, test, every)
  ]
  assert [len(part) for part in names] == [36, 4, 40]
  assert names[0] | names[1] == names[2] and not names[0] & names[1]
  labels = [int(test[index]['label']) for index in range(4)]
  assert labels == [0, 0, 1, 1]
  # A new image elsewhere moves none of these.
  fill(tmp_path, ['c/1.png'])
  again = data.open_dataset(config(tmp_path), 'test')
  assert {again.read(index)[0] for index in range(4)} == names[1]


def test_images_without_classes(tmp_path):
  fill(tmp_path, ['1.png', '2.png', '.hidden/3.png', '.DS_Store'])
  dataset = data.open_dataset(config(tmp_path), 'all')
  assert dataset.info.num_classes == 0 and len(dataset) == 2
  assert int(dataset[0]['label']) == -1


def test_a_text_file_is_named(tmp_path):
  fill(tmp_path, ['a/1.png', 'a/2.png'])
  (tmp_path / 'a' / 'notes.txt').write_text('hello')
  with pytest.raises(data.DataError, match=r'a/notes\.txt is not an image'):
    data.open_dataset(config(tmp_path))
  skipping = config(tmp_path, on_error='skip')
  assert len(data.open_dataset(skipping, 'all')) == 2


def test_a_text_file_with_an_images_name_is_named(tmp_path):
  fill(tmp_path, ['a/1.png'])
  (tmp_path / 'a' / '2.png').write_text('hello')
  dataset = data.open_dataset(config(tmp_path), 'all')
  with pytest.raises(images.ImageError, match=r'2\.png .*not an image'):
    dataset[1]


def test_what_is_wrong_is_said(tmp_path):
  with pytest.raises(data.DataError, match='is not a folder'):
    data.open_dataset(config(tmp_path / 'absent'))
  with pytest.raises(data.DataError, match='holds no images'):
    data.open_dataset(config(tmp_path))
  fill(tmp_path, ['a/1.png'])
  with pytest.raises(data.DataError, match=r"no split 'tset'.*'test'"):
    data.open_dataset(config(tmp_path), 'tset')
  with pytest.raises(data.DataError, match=r"'test'.*has no records"):
    data.open_dataset(config(tmp_path), 'test')
  fill(tmp_path, ['2.png'])
  with pytest.raises(data.DataError, match='beside the class folders'):
    data.open_dataset(config(tmp_path))
