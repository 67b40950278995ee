import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.data.views import Views
from tokpress_jax.io import images

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 12, 3), np.uint8)


@pytest.mark.parametrize('fit', ['crop', 'pad', 'resize', 'tile'])
def test_one_view_is_the_fit(fit):
  ((squares, place),) = Views(size=8, fit=fit)(IMAGE, 0)
  want, where = images.fit_image(IMAGE, 8, policy=fit)
  np.testing.assert_array_equal(squares, want)
  assert place == where


def test_mirrors_follow_their_originals():
  views = Views(size=8, fit='tile', flip=True)
  (squares, place), (mirror, same) = views(IMAGE, 0)
  np.testing.assert_array_equal(mirror, squares[:, :, ::-1])
  assert len(views) == 2 and place == same


def test_crops_are_what_their_places_say():
  views = Views(size=8, crops=3, crop_min=0.5, flip=True)
  found = views(IMAGE, 4)
  assert len(found) == len(views) == 6
  for squares, place in found[::2]:
    top, left, height, width = place.box
    part = IMAGE[top : top + height, left : left + width]
    np.testing.assert_array_equal(squares[0], images.resize(part, (8, 8)))
    assert place.original == (20, 12) and 6 <= height == width <= 12
  assert len({place.box for _, place in found}) == 3


def test_crops_depend_on_seed_and_number_only():
  boxes = lambda seed, index, crops=4: [
    place.box
    for _, place in Views(size=8, crops=crops, seed=seed)(IMAGE, index)
  ]
  assert boxes(0, 5) == boxes(0, 5)
  assert boxes(0, 5)[:2] == boxes(0, 5, crops=2)
  assert boxes(0, 5) != boxes(0, 6) and boxes(0, 5) != boxes(1, 5)


def test_a_crop_of_one_size():
  """The crop of those who resize to 288 and cut out 256."""
  views = Views(size=256, crops=50, crop_min=256 / 288, crop_max=256 / 288)
  for shorter in (288, 576, 864):
    image = np.zeros((shorter, 640 + shorter, 1), np.uint8)
    boxes = np.array([place.box for _, place in views(image, 0)])
    assert (boxes[:, 2:] == shorter * 256 / 288).all()
    assert boxes[:, 0].max() > shorter / 12 and boxes[:, 1].max() > 400


@pytest.mark.parametrize(
  'fields, message',
  [
    ({'crops': -1}, 'crops=-1'),
    ({'crops': 2, 'fit': 'pad'}, "crops=2 with fit='pad'"),
    ({'crop_min': 0.9, 'crop_max': 0.8}, r'crop_min=0\.9 and crop_max=0\.8'),
  ],
)
def test_what_cannot_be_made(fields, message):
  with pytest.raises(data.DataError, match=message):
    Views(size=8, **fields)
