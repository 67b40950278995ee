"""Pictures of pruning: which pixels are whose."""

import jax
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.types import Signals, Tokens
from tokpress_jax.viz import pruning

IMAGE = np.random.default_rng(0).integers(0, 200, (8, 12, 3), np.uint8)


def test_kept_patches_are_the_image_and_the_rest_is_pale():
  kept = np.array([[True, False, False], [False, False, True]])
  out = pruning.draw_kept(IMAGE, kept)
  assert out.dtype == np.uint8
  np.testing.assert_array_equal(out[:4, :4], IMAGE[:4, :4])
  np.testing.assert_array_equal(out[4:, 8:], IMAGE[4:, 8:])
  assert out[:4, 4:].min() > 200


def test_groups_have_their_mean_colour():
  slots = np.array([[0, 0, 1], [-1, 0, 2]])
  out = pruning.draw_groups(IMAGE, slots)
  members = [IMAGE[:4, :8].reshape(-1, 3), IMAGE[4:, 4:8].reshape(-1, 3)]
  want = np.concatenate(members).mean(axis=0).round()
  np.testing.assert_array_equal(out[1, 2], want)
  np.testing.assert_array_equal(out[6, 6], want)  # the same group, apart
  np.testing.assert_array_equal(out[1, 10], IMAGE[1, 10])  # alone
  np.testing.assert_array_equal(out[6, 2], [255, 255, 255])  # dropped


def test_strip_follows_patches_through_layers():
  tokens = Tokens.create(np.zeros((2, 7, 1), np.float32))
  reductions = []
  for layer in range(2):
    keys = jax.random.normal(
      jax.random.key(layer), (2, 1, tokens.valid.shape[1], 4)
    )
    pruner = jax.jit(pruners.ToMe(budget=pruners.Remove(tokens=2)))
    tokens, reduction = pruner(tokens, Signals(keys=keys))
    reductions.append(reduction)
  total = pruners.compose(*reductions)
  slots = pruning.patch_slots(tuple(reductions), row=1, leading=1)
  np.testing.assert_array_equal(slots, total.assign.target[1, 1:])
  strip = pruning.draw_reductions(
    IMAGE, tuple(reductions), grid=(2, 3), row=1, leading=1, panels=2, gap=2
  )
  assert strip.shape == (8, 3 * 12 + 2 * 2, 3) and strip.dtype == np.uint8
  np.testing.assert_array_equal(strip[:, :12], IMAGE)
  with pytest.raises(ValueError, match='leading=0'):
    pruning.draw_reductions(IMAGE, tuple(reductions), grid=(2, 3))
