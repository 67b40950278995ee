"""Contact sheets: which pixels are whose, and which way round."""

import io

import numpy as np
import pytest
from PIL import Image

from tokpress_jax import viz
from tokpress_jax.errors import UserError
from tokpress_jax.viz import contact

RNG = np.random.default_rng(0)


def test_a_choice_shows_kept_merged_and_dropped():
  image = RNG.integers(0, 200, (30, 30, 3), np.uint8)
  slots = np.array([[0, 0, -1], [1, 0, -1], [2, 2, 2]])
  leaders = np.array(
    [[True, False, False], [True, False, False], [False, True, False]]
  )
  out = viz.draw_choice(image, slots, leaders)
  # Alone: as it is. Of a group: as it is, inside an outline.
  np.testing.assert_array_equal(out[10:20, :10], image[10:20, :10])
  np.testing.assert_array_equal(out[1:9, 1:9], image[1:9, 1:9])
  np.testing.assert_array_equal(out[21:29, 11:19], image[21:29, 11:19])
  # Dropped: paler than merged, without a line.
  dropped, merged = out[2:8, 22:28].astype(int), out[2:8, 12:18].astype(int)
  assert dropped.min() > 200 and np.ptp(merged) > 0
  assert (merged.max(axis=-1) - merged.min(axis=-1)).mean() > 10  # tinted
  np.testing.assert_array_equal(
    out[:20, 20:], viz.draw_kept(image, slots >= 0)[:20, 20:]
  )
  # One colour around a group, another around another.
  first, second = out[0, 5], out[29, 15]
  paler = lambda colour: (colour + 255.0) // 2
  np.testing.assert_array_equal(out[0, 15], paler(first))
  np.testing.assert_array_equal(out[19, 15], paler(first))
  np.testing.assert_array_equal(out[29, 25], paler(second))
  assert abs(first.astype(int) - second).max() > 60


def test_crops_lie_on_the_whole_image():
  image = RNG.integers(0, 200, (16, 16, 3), np.uint8)
  kept = np.zeros((5, 2, 2), bool)
  kept[0, 0, 1] = True  # of the thumbnail: the upper right quarter
  kept[2, 0, 0] = True  # of the second crop: in that quarter too
  kept[3, 1, 1] = True  # of the third: lower left quarter, its last patch
  out = viz.draw_crops(image, kept.reshape(-1), crops=(2, 2))
  np.testing.assert_array_equal(out[:4, 8:12], image[:4, 8:12])
  np.testing.assert_array_equal(out[12:, 4:8], image[12:, 4:8])
  half, none = out[4:8, 8:].astype(int), out[:8, :8].astype(int)
  assert none.min() > 215 and half.min() < 215 and half.mean() < none.mean()
  np.testing.assert_allclose(half, (image[4:8, 8:] + 255.0) / 2, atol=1)


def sheet(images, methods, **kwargs):
  """A sheet of which each cell has its own grey; its pixels."""
  fill = lambda value: np.full((8, 8, 3), value, np.uint8)
  pictures = [fill(10 * i) for i in range(images)]
  panels = [
    [fill(10 * i + m + 1) for m in range(methods)] for i in range(images)
  ]
  labels = [f'm{m}' for m in range(methods)]
  out = viz.contact_sheet(pictures, panels, labels, cell=32, **kwargs)
  return np.asarray(out)


def test_more_images_than_methods_go_down():
  out = sheet(3, 2)
  top = out.shape[0] - (3 * 36 - 4)
  grid = out[top + 16 :: 36, 16::36, 0]
  np.testing.assert_array_equal(grid, [[0, 1, 2], [10, 11, 12], [20, 21, 22]])
  assert top > 0 and out.shape[1] == 3 * 36 - 4


def test_more_methods_than_images_go_down():
  out = sheet(2, 3, names=['a', 'b'], texts=['red', 'x'])
  left = out.shape[1] - (2 * 36 - 4)
  top = out.shape[0] - (4 * 36 - 4)
  grid = out[top + 16 :: 36, left + 16 :: 36, 0]
  np.testing.assert_array_equal(grid, [[0, 10], [1, 11], [2, 12], [3, 13]])
  assert left > 20
  plain = sheet(2, 3, names=['a', 'b'])
  assert out.shape[0] == plain.shape[0] + contact.label_size(32) + 5


def test_one_image_is_in_lines():
  out = sheet(1, 8)  # nine panels: two lines of five and four
  assert out.shape[1] == 5 * 36 - 4
  assert out[-1, 0, 0] == 5 and out[-1, -36 - 1, 0] == 8
  assert out[-1, -1, 3] == 0


def test_labels_break_between_words():
  assert viz.wrap('one two three', 40, 13).splitlines() == [
    'one',
    'two',
    'three',
  ]
  assert viz.wrap('one two three', 1000, 13) == 'one two three'
  assert viz.wrap('unbreakable\nb c', 10, 13).splitlines() == [
    'unbreakable',
    'b',
    'c',
  ]


@pytest.mark.parametrize('suffix', ['.png', '.jpg', '.JPEG', '.webp'])
def test_pictures_by_their_ending(suffix):
  picture = Image.new('RGBA', (8, 4), (0, 0, 0, 0))
  picture.paste((200, 30, 40, 255), (0, 0, 4, 4))
  with Image.open(io.BytesIO(viz.encoded(picture, suffix))) as found:
    kind = {'.png': 'PNG', '.webp': 'WEBP'}.get(suffix, 'JPEG')
    assert found.format == kind and found.size == (8, 4)
    clear, red = (np.asarray(found.convert('RGBA'))[2, x] for x in (7, 0))
  if kind == 'JPEG':
    assert clear[:3].min() > 230  # white
  else:
    assert clear[3] == 0
  assert abs(red[:3] - np.array([200, 30, 40])).max() < 60
  with pytest.raises(UserError, match=r"got '\.gif'"):
    viz.encoded(picture, '.gif')


def test_a_png_of_256_colours_is_small_and_clear():
  ramp = np.linspace(0, 255, 64).astype(np.uint8)
  image = np.stack([*np.meshgrid(ramp, ramp), np.full((64, 64), 90)], axis=-1)
  image = np.clip(image + RNG.integers(0, 12, image.shape), 0, 255)
  sheet = viz.sheet([[image.astype(np.uint8)]], row_labels=['label'], cell=64)
  whole, few = viz.png(sheet), viz.small_png(sheet)
  with Image.open(io.BytesIO(few)) as found:
    assert found.mode == 'P' and found.size == sheet.size
    got = np.asarray(found.convert('RGBA')).astype(int)
  want = np.asarray(sheet).astype(int)
  assert len(few) < len(whole) / 2
  assert abs(got[..., 3] - want[..., 3]).max() <= 255 / 32 + 1
  opaque = want[..., 3] == 255
  assert opaque[:, -64:].all() and abs(got - want)[opaque].mean() < 8
  label = (want[..., 3] > 0) & ~opaque
  assert label.any() and (got[label][:, :3] == 125).all()
