import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tokpress_jax.io import images

RANDOM = np.random.RandomState(0)
RGB = RANDOM.randint(0, 256, (7, 5, 3)).astype(np.uint8)


def encoded(image, format='png', **options):
  buffer = io.BytesIO()
  image.save(buffer, format, **options)
  return buffer.getvalue()


@pytest.mark.parametrize('module', [np, jnp])
def test_float_and_uint8_are_inverse(module):
  every = module.arange(256, dtype=module.uint8)
  floats = images.to_float(every)
  assert floats.dtype == np.float32
  np.testing.assert_allclose([floats[0], floats[255]], [-1, 1])
  np.testing.assert_array_equal(images.to_uint8(floats), every)
  wide = module.asarray([-3.0, 0.0, 3.0], dtype=module.float32)
  np.testing.assert_array_equal(images.to_uint8(wide), [0, 128, 255])


def test_to_uint8_takes_bfloat16():
  image = jnp.asarray([-1.0, 1.0], dtype=jnp.bfloat16)
  np.testing.assert_array_equal(images.to_uint8(image), [0, 255])


def test_conversions_refuse_the_wrong_kind():
  with pytest.raises(TypeError, match='expects uint8'):
    images.to_float(np.zeros(3, np.float32))
  with pytest.raises(TypeError, match='expects floats'):
    images.to_uint8(np.zeros(3, np.uint8))


def test_every_kind_of_source(tmp_path):
  image = Image.fromarray(RGB)
  path = tmp_path / 'image.png'
  image.save(path)
  data = path.read_bytes()
  for source in (path, str(path), data, io.BytesIO(data), image, RGB):
    np.testing.assert_array_equal(images.load_image(source), RGB)
  np.testing.assert_array_equal(images.load_image(jnp.asarray(RGB)), RGB)


def test_exif_orientation_is_applied():
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees clockwise
  data = encoded(Image.fromarray(RGB), exif=exif)
  np.testing.assert_array_equal(images.load_image(data), np.rot90(RGB, -1))


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'PA'])
def test_transparency_is_over_white(mode):
  alpha = np.array([[0, 255], [51, 255]], np.uint8)
  grey = np.full((2, 2), 100, np.uint8)
  image = Image.fromarray(grey).convert(mode.rstrip('A'))
  image.putalpha(Image.fromarray(alpha))
  assert image.mode == mode
  loaded = images.load_image(image)
  assert loaded.shape == (2, 2, 1 if mode == 'LA' else 3)
  expected = [[255, 100], [round(0.8 * 255 + 0.2 * 100), 100]]
  np.testing.assert_allclose(loaded[..., 0], expected, atol=1)


def test_transparent_palette():
  image = Image.new('P', (2, 1))
  image.putpalette([10, 20, 30, 40, 50, 60])
  image.putdata([0, 1])
  loaded = images.load_image(encoded(image, transparency=0))
  np.testing.assert_array_equal(loaded, [[[255, 255, 255], [40, 50, 60]]])


def test_modes():
  rgb = Image.fromarray(RGB)
  grey = np.asarray(rgb.convert('L'))
  np.testing.assert_array_equal(
    images.load_image(rgb, channels=1), grey[..., None]
  )
  np.testing.assert_array_equal(images.load_image(grey), grey[..., None])
  assert images.load_image(grey, channels=3).shape == (7, 5, 3)
  bilevel = images.load_image(encoded(rgb.convert('1')))
  assert set(np.unique(bilevel)) <= {0, 255} and bilevel.shape == (7, 5, 1)
  cmyk = Image.new('CMYK', (4, 4), (0, 255, 255, 0))
  loaded = images.load_image(encoded(cmyk, 'tiff'))
  np.testing.assert_array_equal(loaded[0, 0], [255, 0, 0])


def test_16_bit_grey_is_scaled(tmp_path):
  deep = np.array([[0, 257, 32768, 65535]], np.uint16)
  path = tmp_path / 'deep.png'
  Image.fromarray(deep).save(path)
  for source in (path, deep, deep.astype(np.int32)):
    np.testing.assert_array_equal(
      images.load_image(source)[..., 0], [[0, 1, 128, 255]]
    )


@pytest.mark.parametrize(
  'array, message',
  [
    (np.zeros((4, 4, 3), np.float32), 'ambiguous'),
    (np.zeros((4, 4, 5), np.uint8), '5 channels'),
    (np.zeros((4,), np.uint8), r'shape \(4,\)'),
    (np.zeros((0, 4, 3), np.uint8), r'shape \(0, 4, 3\)'),
    (np.full((2, 2), -1, np.int32), 'from -1 to -1'),
  ],
)
def test_arrays_that_are_no_images(array, message):
  with pytest.raises(images.ImageError, match=message):
    images.load_image(array)


@pytest.mark.parametrize('format', ['png', 'jpeg', 'webp', 'gif', 'tiff'])
def test_truncation_anywhere_names_the_file(tmp_path, format):
  data = encoded(Image.fromarray(np.tile(RGB, (8, 8, 1))), format)
  path = tmp_path / f'holiday.{format}'
  refused = 0
  for length in np.linspace(0, len(data) - 1, 40).astype(int):
    path.write_bytes(data[:length])
    try:
      assert images.load_image(path).shape == (56, 40, 3)
    except images.ImageError as error:
      refused += 1
      assert 'holiday' in str(error)
  assert refused >= 30  # only what follows the last pixel may be missing


def test_foreign_files_are_named(tmp_path):
  path = tmp_path / 'notes.png'
  path.write_text('not a picture')
  with pytest.raises(images.ImageError, match=r"notes.png.*b'not a picture'"):
    images.load_image(path)
  path.write_bytes(b'')
  with pytest.raises(images.ImageError, match='it is empty'):
    images.load_image(path)
  with pytest.raises(images.ImageError, match='record 7 of x'):
    images.load_image(b'no', name='record 7 of x')
  with pytest.raises(images.ImageError, match=r'absent\.png cannot be opened'):
    images.load_image(tmp_path / 'absent.png')
  with pytest.raises(images.ImageError, match='cannot be opened'):
    images.load_image(tmp_path)


@pytest.mark.parametrize('policy', images.POLICIES)
@pytest.mark.parametrize('shape', [(1, 1), (8, 8), (21, 10), (3, 40), (1, 90)])
@pytest.mark.parametrize('channels', [1, 3])
def test_fit_and_unfit_give_the_original_size(policy, shape, channels):
  image = RANDOM.randint(0, 256, (*shape, channels)).astype(np.uint8)
  squares, placement = images.fit_image(image, 8, policy=policy)
  assert squares.shape[1:] == (8, 8, channels)
  assert squares.dtype == np.uint8
  assert placement.original == shape
  back = images.unfit_image(squares, placement)
  if policy == 'crop':
    assert back.shape == (min(shape), min(shape), channels)
  else:
    assert back.shape == image.shape
  if policy == 'tile' or shape == (8, 8):
    np.testing.assert_array_equal(back, image)
  floats = images.unfit_image(images.to_float(squares), placement)
  assert floats.dtype == np.float32 and floats.shape == back.shape


@pytest.mark.parametrize('policy', ['pad', 'resize'])
def test_unfit_undoes_a_smooth_image(policy):
  ramp = np.linspace(0, 255, 24 * 16).reshape(24, 16, 1).astype(np.uint8)
  squares, placement = images.fit_image(ramp, 32, policy=policy)
  back = images.unfit_image(squares, placement).astype(int)
  assert np.abs(back - ramp).max() <= 6


def test_pad_keeps_proportions_on_grey():
  image = np.full((4, 8, 3), 200, np.uint8)
  squares, placement = images.fit_image(image, 8, policy='pad')
  assert placement.box == (2, 0, 4, 8)
  assert (squares[0, 2:6] == 200).all()
  assert (squares[0, :2] == images.PAD_VALUE).all()


def test_crop_takes_the_centre():
  image = np.zeros((4, 8, 1), np.uint8)
  image[:, 2:6] = 9
  squares, _ = images.fit_image(image, 4, policy='crop')
  assert (squares == 9).all()


def test_fit_says_what_is_wrong():
  with pytest.raises(ValueError, match=r"'squash'.*crop, pad, resize, tile"):
    images.fit_image(RGB, 8, policy='squash')
  with pytest.raises(ValueError, match='at least one pixel'):
    images.fit_image(RGB, 0)
  squares, placement = images.fit_image(RGB, 8)
  with pytest.raises(ValueError, match='expects squares of shape'):
    images.unfit_image(squares[0], placement)
