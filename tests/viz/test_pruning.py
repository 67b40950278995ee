"""Pictures of pruning: which pixels are whose."""

import jax
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.types import Dense, Reduction, Signals, Tokens
from tokpress_jax.viz import pruning

IMAGE = np.random.default_rng(0).integers(0, 200, (8, 12, 3), np.uint8)


def test_kept_patches_are_the_image_and_the_rest_is_pale():
  kept = np.array([[True, False, False], [False, False, True]])
  out = pruning.draw_kept(IMAGE, kept)
  assert out.dtype == np.uint8
  np.testing.assert_array_equal(out[:4, :4], IMAGE[:4, :4])
  np.testing.assert_array_equal(out[4:, 8:], IMAGE[4:, 8:])
  assert out[:4, 4:].min() > 200


def test_groups_have_their_mean_colour_and_one_outline():
  slots = np.array([[0, 0, 1], [-1, 0, 2], [3, 4, 3]])
  image = np.random.default_rng(0).integers(0, 200, (30, 30, 3), np.uint8)
  out = pruning.draw_groups(image, slots, line=2)
  group = [image[:10, :20].reshape(-1, 3), image[10:20, 10:20].reshape(-1, 3)]
  want = np.concatenate(group).mean(axis=0).round()
  np.testing.assert_array_equal(out[5, 5], want)
  np.testing.assert_array_equal(out[5, 10], want)  # no line inside a group
  np.testing.assert_array_equal(out[10, 15], want)
  np.testing.assert_array_equal(out[:10, 20:], image[:10, 20:])  # alone
  assert out[10:20, :10].min() > 200  # dropped
  # An outline of two pixels inside the group, of its own colour.
  for at in ((0, 5), (1, 5), (5, 0), (5, 19), (8, 5), (19, 15), (9, 9)):
    np.testing.assert_array_equal(out[at], out[0, 0])
  assert abs(out[0, 0] - want).max() > 60
  # Parts that do not touch have the same fill and outline, another group's not.
  np.testing.assert_array_equal(out[20:, :10], out[20:, 20:])
  assert abs(out[20, 0].astype(int) - out[0, 0]).max() > 60


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
  found = pruning.follow_patches(reductions, row=1, leading=1)
  np.testing.assert_array_equal(found.slots, total.assign.target[1, 1:])
  np.testing.assert_array_equal(found.shares, np.ones(6))
  strip = pruning.draw_reductions(
    IMAGE, tuple(reductions), grid=(2, 3), row=1, leading=1, panels=2, gap=2
  )
  assert strip.shape == (8, 3 * 12 + 2 * 2, 3) and strip.dtype == np.uint8
  np.testing.assert_array_equal(strip[:, :12], IMAGE)
  with pytest.raises(ValueError, match='leading=0'):
    pruning.draw_reductions(IMAGE, tuple(reductions), grid=(2, 3))
  with pytest.raises(ValueError, match='nothing to draw'):
    pruning.follow_patches([])


def test_soft_reductions_give_the_slot_of_most_weight():
  first = np.zeros((1, 3, 5), np.float32)
  first[0, 0, 0] = 1  # a class token
  first[0, 1, 1:4] = 0.75, 0.4, 0.2
  first[0, 2, 1:4] = 0.25, 0.6, 0.2  # the last patch has no weight
  reduction = lambda matrix: Reduction(
    index=np.zeros(matrix.shape[:2], np.int32),
    valid=np.ones(matrix.shape[:2], bool),
    assign=Dense(matrix),
    positions=np.zeros((*matrix.shape[:2], 1)),
  )
  found = pruning.follow_patches([reduction(first)], leading=1)
  np.testing.assert_array_equal(found.slots, [1, 2, 1, -1])
  np.testing.assert_allclose(found.shares, [0.75, 0.6, 0.5, 0])
  swap = np.eye(3, dtype=np.float32)[None, [0, 2, 1]]
  found = pruning.follow_patches([reduction(first), reduction(swap)], leading=1)
  np.testing.assert_array_equal(found.slots, [2, 1, 1, -1])


def test_panels_are_even_and_end_at_the_last():
  assert pruning.pick_panels(12, 4) == (3, 6, 9, 12)
  assert pruning.pick_panels(2, 4) == (1, 2)
  assert pruning.pick_panels(7, 1) == (7,)


def test_bars_are_as_high_as_the_counts():
  counts = [(8, 4), (4, 4), (4, 0)]
  bars = np.asarray(pruning.token_bars(counts, width=300, height=150))
  heights = []
  for layer in range(3):
    # To the left of the number above the bar.
    column = bars[:, layer * 100 + 15]
    blue = column[:, 2] > column[:, 0] + 40
    heights.append((blue.sum(), (blue & (column[:, 3] == 255)).sum()))
  (pale, dark), second, third = heights
  assert pale > 90 and abs(dark / pale - 0.5) < 0.02
  assert second == (dark, dark) and third == (dark, 0)


def test_sheet_holds_the_panels_above_the_bars():
  panel = np.full((40, 40, 3), 7, np.uint8)
  lines = ['a text that is too long for the width of the sheet ' * 3]
  make = lambda **kwargs: np.asarray(
    pruning.pruned_sheet(
      [[panel, panel + 1]], ['a', 'b'], [(3, 3)], cell=40, **kwargs
    )
  )
  sheet, longer = make(), make(lines=lines)
  top = np.flatnonzero((sheet[..., 0] == 7).any(axis=1))[0]
  np.testing.assert_array_equal(sheet[top : top + 40, :40, :3], panel)
  np.testing.assert_array_equal(sheet[top : top + 40, 44:84, :3], panel + 1)
  assert longer.shape[1] == sheet.shape[1]
  assert longer.shape[0] > sheet.shape[0] + 30
