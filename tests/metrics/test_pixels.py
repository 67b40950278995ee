"""The ways to resize against Pillow, PyTorch and TensorFlow's definition."""

import functools

import jax
import numpy as np
import pytest
from PIL import Image

from tokpress_jax import metrics
from tokpress_jax.errors import UserError

SIZES = [(8, 11), (299, 40), (1, 300), (310, 450)]


@functools.cache
def _images(size):
  return np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)


def _prepared(size, resize):
  # A program for every size: not worth compiling.
  with jax.disable_jit():
    return np.asarray(metrics.preprocess(_images(size), resize))


@pytest.mark.parametrize('size', SIZES)
def test_tf1(size):
  """TensorFlow 1's resize_bilinear: pixel i is at i times the scale."""
  x = np.float64(_images(size))
  places = []
  for length in size:
    at = np.arange(299, dtype=np.float32) * np.float32(length / 299)
    low = np.floor(at).astype(int)
    places.append((low, np.minimum(low + 1, length - 1), np.float64(at - low)))
  (top, bottom, dy), (left, right, dx) = places
  dy, dx = dy[None, :, None, None], dx[None, None, :, None]
  above = x[:, top][:, :, left] * (1 - dx) + x[:, top][:, :, right] * dx
  below = x[:, bottom][:, :, left] * (1 - dx) + x[:, bottom][:, :, right] * dx
  expected = (above * (1 - dy) + below * dy - 128) / 128
  np.testing.assert_allclose(_prepared(size, 'tf1'), expected, atol=2e-6)


@pytest.mark.parametrize('size', SIZES)
def test_clean(size):
  """clean-fid: Pillow's bicubic of each channel as floats, clipped."""
  expected = np.empty((2, 299, 299, 3), np.float32)
  for i, image in enumerate(_images(size)):
    for c in range(3):
      plane = Image.fromarray(np.float32(image[..., c]))
      plane = plane.resize((299, 299), Image.Resampling.BICUBIC)
      expected[i, ..., c] = np.clip(np.asarray(plane), 0, 255)
  expected = (expected - 128) / 128
  np.testing.assert_allclose(_prepared(size, 'clean'), expected, atol=2e-6)


@pytest.mark.parity
@pytest.mark.parametrize('size', SIZES)
def test_torch(size):
  """pytorch-fid: interpolate of [0, 1], then 2 x - 1."""
  torch = pytest.importorskip('torch')
  x = torch.from_numpy(_images(size)).permute(0, 3, 1, 2).float() / 255
  x = torch.nn.functional.interpolate(
    x, size=(299, 299), mode='bilinear', align_corners=False
  )
  expected = (2 * x - 1).permute(0, 2, 3, 1).numpy()
  np.testing.assert_allclose(_prepared(size, 'torch'), expected, atol=2e-5)


def test_images_of_299_are_left_as_they_are():
  size = (299, 299)
  for resize in ('tf1', 'clean'):
    expected = (np.float32(_images(size)) - 128) / 128
    np.testing.assert_array_equal(_prepared(size, resize), expected)
  expected = _images(size) / 127.5 - 1
  np.testing.assert_allclose(_prepared(size, 'torch'), expected, atol=1e-6)


def test_grey_images_count_as_three_equal_channels():
  grey = _images((8, 11))[..., :1]
  wide = np.repeat(grey, 3, axis=-1)
  for resize in metrics.RESIZES:
    found = metrics.preprocess(grey, resize)
    np.testing.assert_array_equal(found, metrics.preprocess(wide, resize))
    assert found.shape == (2, 299, 299, 3)


def test_errors():
  with pytest.raises(UserError, match=r"'clean', 'tf1', 'torch'"):
    metrics.preprocess(_images((8, 11)), 'bicubic')
  with pytest.raises(UserError, match='1 or 3 channels'):
    metrics.preprocess(np.zeros((2, 8, 8, 4), np.uint8))
