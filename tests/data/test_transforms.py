import numpy as np
import pytest

from tokpress_jax import data
from tokpress_jax.data import transforms

IMAGE = np.arange(20 * 12 * 3).reshape(20, 12, 3).astype(np.uint8)


def test_random_crops_stay_inside_and_reach_everywhere():
  random = np.random.default_rng(0)
  boxes = [
    transforms.random_crop_box((20, 12), 0.5, random) for _ in range(500)
  ]
  for top, left, height, width in boxes:
    assert height == width and 6 <= height <= 12
    assert 0 <= top <= 20 - height and 0 <= left <= 12 - width
  assert {box[2] for box in boxes} == set(range(6, 13))
  assert {(box[0], box[1]) for box in boxes} >= {(0, 0), (14, 0)}


def test_a_one_pixel_image_can_be_cropped():
  random = np.random.default_rng(0)
  assert transforms.random_crop_box((1, 1), 0.8, random) == (0, 0, 1, 1)


def test_flip_mirrors_half():
  transform = transforms.TrainTransform(data.DataConfig(flip=True), 12)
  random = np.random.default_rng(0)
  first = transform(IMAGE, random)
  seen = [transform(IMAGE, random) for _ in range(200)]
  same = np.mean([np.array_equal(image, first) for image in seen])
  mirrored = np.mean([np.array_equal(image[:, ::-1], first) for image in seen])
  assert same + mirrored == 1 and 0.35 < same < 0.65


def test_tiles_are_drawn_in_training_and_fixed_in_evaluation():
  config = data.DataConfig(fit='tile')
  random = np.random.default_rng(0)
  train = transforms.TrainTransform(config, 8)
  drawn = {train(IMAGE, random).tobytes() for _ in range(100)}
  evaluate = transforms.EvalTransform(config, 8)
  fixed = [evaluate(IMAGE, index).tobytes() for index in range(7)]
  assert drawn == set(fixed) and len(drawn) == 6  # 3 rows of 2
  assert fixed[6] == fixed[0]


@pytest.mark.parametrize('fit', ['crop', 'pad', 'resize', 'tile'])
def test_the_result_is_a_square_of_its_own(fit):
  image = np.zeros((8, 8, 3), np.uint8)
  config = data.DataConfig(fit=fit)
  made = transforms.EvalTransform(config, 8)(image, 0)
  assert made.shape == (8, 8, 3) and made.flags.c_contiguous
