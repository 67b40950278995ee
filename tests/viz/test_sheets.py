"""Sheets: where each image lands, its pixels, its size, its errors."""

import io

import numpy as np
import pytest
from PIL import Image

from tokpress_jax import viz


def _images(n, size=8, channels=1):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (n, size, size, channels), np.uint8)


def test_every_pixel_is_enlarged_in_its_place():
  images = _images(6)
  out = np.asarray(viz.sheet([images[:3], images[3:5]], cell=16, gap=2))
  assert out.shape == (16 * 2 + 2, 16 * 3 + 4, 4)
  for i, (row, column) in enumerate([(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]):
    y, x = row * 18, column * 18
    part = out[y : y + 16, x : x + 16]
    np.testing.assert_array_equal(part[::2, ::2, :3], images[i].repeat(3, -1))
    np.testing.assert_array_equal(part[1::2, 1::2], part[::2, ::2])
    assert (part[..., 3] == 255).all()
  assert (out[18:, 36:] == 0).all()  # The empty place is transparent.


def test_floats_are_in_minus_one_to_one():
  image = np.array([-1.0, -0.5, 0.0, 1.5], np.float32).reshape(1, 2, 2, 1)
  out = np.asarray(viz.sheet([image], cell=2))
  np.testing.assert_array_equal(out[..., 0], [[0, 64], [128, 255]])


def test_shrinking_averages_and_keeps_proportions():
  image = np.zeros((1, 4, 8, 3), np.uint8)
  image[:, :, ::2] = 200
  out = np.asarray(viz.sheet([image], cell=4))
  assert (out[:2, :, :3] == 100).all() and (out[2:, :, 3] == 0).all()


def test_reconstructions_grow_downwards_to_the_original():
  images = _images(4)
  decoded = {k: np.full_like(images, k) for k in (4, 1, 2)}
  labelled = viz.reconstructions(images, decoded, cell=8)
  right = np.asarray(labelled)[:, -(4 * 12 - 4) :]
  assert [right[12 * r, 0, 0] for r in range(3)] == [1, 2, 4]
  np.testing.assert_array_equal(right[36:, :8, 0], images[0, ..., 0])


def test_samples_are_grouped_by_class():
  images = np.stack([np.full((2, 2, 1), v, np.uint8) for v in (9, 5, 6, 7)])
  labels = [2, 0, 2, 0]
  out = viz.samples_by_class(
    images, labels, ['0', '1', '2'], per_class=1, cell=2
  )
  column = np.asarray(out)[:, -1, 0]
  assert [column[0], column[6]] == [5, 9] and len(column) == 2 + 4 + 2


def test_scales_go_from_left_to_right():
  stages = [np.full((2, 4, 4, 1), s, np.uint8) for s in (10, 20, 30)]
  out = np.asarray(viz.scale_by_scale(stages, (1, 2, 4), cell=16))
  assert out[-1, [0, 20, 40], 0].tolist() == [10, 20, 30]
  grids = (1, 1), (1, 2), (2, 2)
  more = viz.scale_by_scale(stages, grids, row_labels=['a', 'b'], cell=16)
  np.testing.assert_array_equal(np.asarray(more)[-36:, -56:], out[-36:])
  with pytest.raises(ValueError, match='3 stages for 2'):
    viz.scale_by_scale(stages, (1, 2))


def test_an_edit_shows_what_was_kept():
  original = _images(1)[0]
  results = _images(3)
  drawn = np.array([[True, False], [False, False]])
  rows = results[:2], results[2:]
  out = np.asarray(viz.edits(original, drawn, rows, cell=8))
  out = out[-20:]  # Below the names of the columns.
  assert out.shape[1] == 4 * 12 - 4
  for row in out[:8], out[12:]:
    np.testing.assert_array_equal(row[:, :8, :1], original)
    assert (row[:4, 12:16, :3] == 127).all()
    np.testing.assert_array_equal(row[4:, 12:20, :1], original[4:])
    np.testing.assert_array_equal(row[:4, 16:20, :1], original[:4, 4:])
  np.testing.assert_array_equal(out[:8, 36:44, :1], results[1])
  np.testing.assert_array_equal(out[12:, 24:32, :1], results[2])
  floats = np.zeros((2, 8, 8, 1), np.float32) - 1
  out = np.asarray(viz.edits(floats[0], drawn, [floats], cell=8))[-8:]
  assert out[0, 12, 0] == 127 and out[7, 12, 0] == 0


def test_png_can_be_read_back():
  out = viz.sheet([_images(2)], row_labels=['a'])
  with Image.open(io.BytesIO(viz.png(out))) as read:
    np.testing.assert_array_equal(np.asarray(read), np.asarray(out))


def test_errors_say_what_was_given():
  with pytest.raises(ValueError, match=r'\(8, 8\)'):
    viz.sheet([_images(1)[..., 0]])
  with pytest.raises(ValueError, match='1 row_labels were given for 2'):
    viz.sheet([_images(1), _images(1)], row_labels=['a'])
  with pytest.raises(ValueError, match='at least one row'):
    viz.sheet([_images(0)])
