import hashlib

import numpy as np
import pytest
import scipy.ndimage
from sklearn import datasets

from tokpress_jax import data
from tokpress_jax.data.builders import digits, photos, scenes


def test_digits_are_scikit_learns(data_dir):
  scans = datasets.load_digits()
  expected = sorted(
    (int(label), np.rint(image * 255 / 16).astype(np.uint8).tobytes())
    for image, label in zip(scans.images, scans.target, strict=True)
  )
  found = []
  for split, count in (('train', 1500), ('test', 297)):
    dataset = data.open_dataset(data.DataConfig(data_dir=data_dir), split)
    assert len(dataset) == count
    assert dataset.info.image_size == 8 and dataset.info.channels == 1
    assert dataset.info.num_classes == 10
    records = [dataset[index] for index in range(count)]
    found += [(int(r['label']), r['image'].tobytes()) for r in records]
  assert sorted(found) == expected


def test_stratified_gives_every_class_its_share():
  labels = datasets.load_digits().target
  chosen = digits.stratified(labels, 297, seed=0)
  assert chosen.sum() == 297
  shares = np.bincount(labels[chosen]) / np.bincount(labels)
  assert np.abs(shares - 297 / 1797).max() < 0.006
  again = digits.stratified(labels, 297, seed=0)
  other = digits.stratified(labels, 297, seed=1)
  np.testing.assert_array_equal(chosen, again)
  assert (chosen != other).any()


def test_scenes_hold_as_many_shapes_as_they_say():
  for seed in range(40):
    number = seed % scenes.MOST + 1
    image = scenes.draw_scene(number, seed=seed).astype(int)
    ground = np.median(image.reshape(-1, 3), axis=0)
    differs = np.abs(image - ground).max(axis=-1) > 40
    eight_neighbours = np.ones((3, 3))
    assert scipy.ndimage.label(differs, eight_neighbours)[1] == number


def test_scenes_are_classed_by_number(tmp_path, monkeypatch):
  monkeypatch.setattr(scenes, 'SPLITS', {'train': (0, 16), 'test': (99, 8)})
  config = data.DataConfig(name='scenes', data_dir=str(tmp_path))
  dataset = data.open_dataset(config)
  assert dataset.info.class_names == tuple('12345678')
  labels = [int(dataset[index]['label']) for index in range(16)]
  assert sorted(labels) == sorted(2 * list(range(8)))


def test_photos_are_split_by_photograph(tmp_path, monkeypatch):
  monkeypatch.setattr(photos, 'CROPS', 2)
  config = data.DataConfig(name='photos', data_dir=str(tmp_path))
  seen = {}
  for split in ('train', 'test'):
    dataset = data.open_dataset(config, split)
    names = dataset.info.class_names
    assert dataset.info.image_size == 64 and dataset.info.channels == 3
    records = [dataset[index] for index in range(len(dataset))]
    seen[split] = {names[int(record['label'])] for record in records}
  assert seen['test'] == set(photos.HELD_OUT)
  assert not seen['train'] & seen['test']
  assert seen['train'] | seen['test'] == set(names)
  assert 'Held out: camera, chelsea' in dataset.info.description


def test_a_photograph_that_is_not_installed_is_named():
  with pytest.raises(data.DataError, match=r'skimage/data/absent.png'):
    photos._shipped('skimage/data/absent.png')


def test_texts_of_scenes_name_the_shapes_in_them(tmp_path, monkeypatch):
  monkeypatch.setattr(scenes, 'SPLITS', {'train': (0, 16), 'test': (99, 8)})
  config = data.DataConfig(name='scenes', data_dir=str(tmp_path))
  dataset = data.open_dataset(config)
  codec = dataset.info.codec
  for index in range(len(dataset)):
    element = dataset[index]
    names = dataset.read(index).text.split(', ')
    assert len(names) == element['label'] + 1
    assert codec.decode(element['text'][None]) == [' '.join(names)]
    # Each colour that is named is there, and no other.
    near = lambda rgb, image=element['image'].astype(int): (
      np.abs(image - rgb).max(axis=-1) < 20
    )
    seen = {name for name, rgb in scenes.COLOURS.items() if near(rgb).any()}
    assert seen == {name.split()[0] for name in names}
  batch = next(data.eval_batches(config, split='test', batch_size=16))
  assert batch['text'].shape == (16, 18) and not batch['text'][8:].any()


def test_shapes_have_one_text_however_they_lie():
  make = lambda *names: [
    scenes.Shape(colour=colour, kind=kind, circle=(0, 0, 1))
    for colour, kind in names
  ]
  a, b, c = ('red', 'disc'), ('blue', 'ring'), ('red', 'ring')
  text = scenes.name_shapes(make(a, b, c))
  assert sorted(text.split(', ')) == ['blue ring', 'red disc', 'red ring']
  assert text == scenes.name_shapes(make(c, a, b))
  assert text != scenes.name_shapes(make(a, b, b))
  orders = [
    scenes.name_shapes(scenes.plan_scene(2, seed=seed)[0]).split(', ')
    for seed in range(20)
  ]
  assert 0 < sum(names == sorted(names) for names in orders) < 20


def test_drawings_are_those_of_earlier_versions():
  digest = hashlib.sha256()
  for seed in range(64):
    image = scenes.draw_scene(seed % 8 + 1, seed=seed)
    digest.update(image.tobytes())
  assert digest.hexdigest().startswith('5c0196769254c147')


def test_photographs_are_named(tmp_path, monkeypatch):
  monkeypatch.setattr(photos, 'CROPS', 1)
  config = data.DataConfig(name='photos', data_dir=str(tmp_path))
  dataset = data.open_dataset(config, 'train+test')
  names = dataset.info.class_names
  assert len(dataset) == 20 and set(photos.TEXTS) == set(names)
  for index in range(20):
    element = dataset[index]
    text = photos.TEXTS[names[int(element['label'])]]
    assert dataset.info.codec.decode(element['text'][None]) == [text]
