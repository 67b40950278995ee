"""A thumbnail and crops of any image are those of LLaVA-NeXT."""

import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io import any_resolution

RNG = np.random.default_rng(0)
SHAPES = ((40, 61), (97, 30), (64, 64), (33, 200), (210, 31), (20, 21), (1, 90))
IMAGES = [RNG.integers(0, 256, (*shape, 3), np.uint8) for shape in SHAPES]


def test_crops_of_all_sizes():
  got = any_resolution.cut_crops(IMAGES, size=32, patch=8)
  assert got.pixels.shape == (7, 5, 32, 32, 3) and got.pixels.dtype == np.uint8
  assert got.valid.shape == (7, 5, 16) and got.valid.dtype == bool
  # 64 x 64 fills two rows of two crops.
  np.testing.assert_array_equal(got.layout[2], [2, 2])
  assert got.valid[2].all()
  whole = got.pixels[2, 1:].reshape(2, 2, 32, 32, 3).swapaxes(1, 2)
  np.testing.assert_array_equal(whole.reshape(64, 64, 3), IMAGES[2])
  # 33 x 200 is 6 x 32 at its proportions: a third of a row of three crops.
  np.testing.assert_array_equal(got.layout[3], [1, 3])
  assert not got.valid[3, 4:].any() and got.valid[3, 0].all()
  rows = got.valid[3, 1:4].reshape(3, 4, 4)
  np.testing.assert_array_equal(rows.all(axis=(0, 2)), rows.any(axis=(0, 2)))
  assert not got.pixels[~got.valid.any(axis=2)].any()


@pytest.mark.parametrize('shape', SHAPES)
def test_the_layout_shows_most(shape):
  """Every other one shows less of the image, or as much and wastes more."""
  height, width = shape
  worth = {}
  for rows, columns in any_resolution.LLAVA_NEXT:
    scale = min(32 * rows / height, 32 * columns / width)
    shown = min(int(width * scale) * int(height * scale), height * width)
    worth[rows, columns] = (shown, shown - 1024 * rows * columns)
  got = any_resolution.best_layout(shape, size=32)
  assert worth[got] == max(worth.values())


def test_grey_images_and_other_layouts():
  got = any_resolution.cut_crops(
    [IMAGES[0][..., 0]], size=16, patch=4, layouts=((2, 3),), channels=1
  )
  assert got.pixels.shape == (1, 7, 16, 16, 1)


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    ({'patch': 7}, 'patches of 7 pixels do not tile crops of 32'),
    ({'layouts': ()}, 'at least one image and one layout'),
    ({'layouts': ((0, 2),)}, r'pairs, rows .*got \[\(0, 2\)\]'),
    ({'layouts': (2, 2)}, r'pairs, rows .*got \[2, 2\]'),
    ({'channels': 4}, 'channels is 1 or 3, got 4'),
  ],
)
def test_bad_input(options, match):
  with pytest.raises(UserError, match=match):
    any_resolution.cut_crops(IMAGES, **{'size': 32, 'patch': 8, **options})
  with pytest.raises(UserError, match='at least one image'):
    any_resolution.cut_crops([])
  for one in ('street.jpg', np.zeros((2, 4, 4, 3), np.uint8)):
    with pytest.raises(UserError, match=r'a list of images.*got one'):
      any_resolution.cut_crops(one)
  with pytest.raises(UserError, match='float32, whose range is ambiguous'):
    any_resolution.cut_crops([np.zeros((4, 4, 3), np.float32)])


@pytest.mark.parity
@pytest.mark.parametrize(('size', 'patch'), [(32, 8), (42, 14)])
def test_pixels_and_patches_are_those_of_transformers(size, patch):
  torch = pytest.importorskip('torch')
  pytest.importorskip('transformers')
  from transformers.models.llava_next import (
    image_processing_pil_llava_next as official,
  )
  from transformers.models.llava_next import modeling_llava_next

  layouts = any_resolution.LLAVA_NEXT
  # Of an image of one row it keeps nothing, nor knows its channels.
  images = IMAGES[:-1]
  got = any_resolution.cut_crops(images, size=size, patch=patch)
  processor = official.LlavaNextImageProcessorPil(
    size={'shortest_edge': size},
    crop_size={'height': size, 'width': size},
    image_grid_pinpoints=[[r * size, c * size] for r, c in layouts],
    do_rescale=False,
    do_normalize=False,
  )
  want = processor(images, return_tensors='np')['pixel_values']
  number = want.shape[1]
  np.testing.assert_array_equal(
    got.pixels[:, :number], np.moveaxis(want, 2, -1)
  )
  side = size // patch
  for i, shape in enumerate(SHAPES[:-1]):
    rows, columns = got.layout[i]
    grid = torch.arange(rows * columns * side**2)
    grid = grid.reshape(rows, columns, side, side).swapaxes(1, 2)
    whole = grid.reshape(1, rows * side, columns * side)
    kept = modeling_llava_next.unpad_image(whole, shape)
    np.testing.assert_array_equal(
      np.flatnonzero(got.valid[i, 1:]), np.sort(kept.numpy().ravel())
    )
