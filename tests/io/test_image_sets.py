"""Sets of images in files that others read and write."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from tokpress_jax.errors import UserError
from tokpress_jax.io import image_sets

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), np.uint8)


def _write(path, pixels=PIXELS):
  writer = image_sets.ImageWriter(path, pixels.shape)
  for part in np.split(pixels, [2, 5]):
    writer.write(part)
  writer.close(np.arange(7))


def test_numpy_reads_what_is_written(tmp_path):
  path = tmp_path / 'x' / 's.npz'
  _write(path)
  arrays = np.load(path)
  assert sorted(arrays.files) == ['arr_0', 'arr_1']
  np.testing.assert_array_equal(arrays['arr_0'], PIXELS)
  np.testing.assert_array_equal(arrays['arr_1'], np.arange(7))
  assert [p.name for p in path.parent.iterdir()] == ['s.npz']


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('key', ['arr_0', 'images'])
def test_what_numpy_writes_is_read_in_parts(tmp_path, save, key):
  path = tmp_path / 's.npz'
  save(path, **{key: PIXELS, 'labels': np.arange(7)})
  found = image_sets.open_images(path)
  assert found.shape == (7, 4, 5, 3) and not found.statistics
  parts = list(found.batches(3))
  assert [len(p) for p in parts] == [3, 3, 1]
  np.testing.assert_array_equal(np.concatenate(parts), PIXELS)


def test_a_folder(tmp_path):
  for i, image in enumerate(PIXELS):
    Image.fromarray(image).save(tmp_path / f'{i}.png')
  (tmp_path / 'notes.txt').write_text('no image')
  found = image_sets.open_images(tmp_path)
  np.testing.assert_array_equal(np.concatenate([*found.batches(4)]), PIXELS)
  Image.fromarray(PIXELS[0, :3]).save(tmp_path / '5.png')
  found = image_sets.open_images(tmp_path)
  with pytest.raises(UserError, match=r'5.png is \(3, 5, 3\), 0.png'):
    list(found.batches(4))


def test_statistics_with_their_recipe(tmp_path):
  path = tmp_path / 's.npz'
  arrays = {'mu': np.arange(3.0), 'sigma': np.eye(3)}
  image_sets.save_statistics(path, arrays, {'resize': 'tf1'})
  found = image_sets.open_images(path)
  assert found.shape is None and found.recipe == {'resize': 'tf1'}
  np.testing.assert_array_equal(found.statistics['sigma'], np.eye(3))
  with pytest.raises(
    UserError, match=r'statistics \(mu, sigma\) and no images'
  ):
    next(found.batches(1))
  # The reference files of the usual evaluator hold both.
  more = {'mu_s': np.zeros(2), 'sigma_s': np.eye(2), 'arr_0': PIXELS}
  np.savez(path, **arrays, **more)
  found = image_sets.open_images(path)
  assert set(found.statistics) == {'mu', 'sigma', 'mu_s', 'sigma_s'}
  assert found.shape == (7, 4, 5, 3) and found.recipe is None


@pytest.mark.parametrize(
  'arrays, message',
  [
    ({'arr_0': np.float32(PIXELS)}, r'float32 \(7, 4, 5, 3\); expected uint8'),
    ({'arr_0': PIXELS.transpose(0, 3, 1, 2)}, 'expected uint8'),
    ({'arr_0': PIXELS[..., 0]}, 'expected uint8'),
    ({'arr_0': np.asfortranarray(PIXELS)}, 'stored by columns'),
    ({'pixels': PIXELS}, 'has the arrays pixels; expected arr_0'),
    ({'mu': np.zeros(3)}, 'lacks sigma'),
    (
      {'mu': np.zeros(3), 'sigma': np.eye(3), 'mu_s': np.zeros(2)},
      'lacks sigma_s',
    ),
    ({'mu': np.zeros(3), 'sigma': np.eye(4)}, r'\(3,\) and \(4, 4\)'),
    ({'mu': np.array([{}]), 'sigma': np.eye(1)}, 'no .npz file'),
  ],
)
def test_other_arrays(tmp_path, arrays, message):
  path = tmp_path / 's.npz'
  np.savez(path, **arrays)
  with pytest.raises(UserError, match=message):
    image_sets.open_images(path)


def test_other_files(tmp_path):
  with pytest.raises(UserError, match='no file or folder'):
    image_sets.open_images(tmp_path / 'none.npz')
  with pytest.raises(UserError, match='no images in the folder'):
    image_sets.open_images(tmp_path)
  (tmp_path / 'x.npz').write_bytes(b'no zip file')
  np.save(tmp_path / 'y.npy', PIXELS)
  for name in ('x.npz', 'y.npy'):
    with pytest.raises(UserError, match=f'{name} is no .npz file'):
      image_sets.open_images(tmp_path / name)


def test_a_file_whose_header_promises_more(tmp_path):
  path = tmp_path / 's.npz'
  _write(path)
  whole = zipfile.ZipFile(path).read('arr_0.npy')
  with zipfile.ZipFile(tmp_path / 'short.npz', 'w') as archive:
    archive.writestr('arr_0.npy', whole[:-100])
  found = image_sets.open_images(tmp_path / 'short.npz')
  with pytest.raises(UserError, match='has 7 images by its header, and ends'):
    list(found.batches(2))


def test_a_writer_that_gets_too_few_leaves_nothing(tmp_path):
  writer = image_sets.ImageWriter(tmp_path / 's.npz', (9, 4, 5, 3))
  writer.write(PIXELS)
  with pytest.raises(ValueError, match='7 images came of 9'):
    writer.close()
  assert not list(tmp_path.iterdir())
  writer = image_sets.ImageWriter(tmp_path / 's.npz', (9, 4, 5, 3))
  with pytest.raises(ValueError, match='got float32'):
    writer.write(np.float32(PIXELS))
  writer._file.close()
  writer._archive.close()
