"""Patches against plain loops, and back."""

import numpy as np
import pytest

from tokpress_jax import nn

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 6, 3))


def test_patchify_equals_loops():
  got = nn.patchify(IMAGES, 2)
  assert got.shape == (2, 2, 3, 12)
  for row, column in np.ndindex(2, 3):
    patch = IMAGES[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
    np.testing.assert_array_equal(got[:, row, column], patch.reshape(2, -1))


@pytest.mark.parametrize('patch', [1, 2])
def test_unpatchify_is_the_inverse(patch):
  again = nn.unpatchify(nn.patchify(IMAGES, patch), patch)
  np.testing.assert_array_equal(again, IMAGES)


@pytest.mark.parametrize('patch', [0, 3, 4, 8])
def test_patches_must_tile_the_image(patch):
  with pytest.raises(ValueError, match=f'4 x 6 is not .* {patch} x {patch}'):
    nn.check_patch((4, 6), patch)
  with pytest.raises(ValueError, match='multiple of it'):
    nn.patchify(IMAGES, patch)
