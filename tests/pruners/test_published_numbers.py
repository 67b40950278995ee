"""Numbers that papers and their codes print, by hand and by our functions.

Sums are written out as fractions of layers and tokens. Where a paper leaves its
convention open, the test names ours.
"""

import functools

import numpy as np
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.pruners import flops, schedules
from tokpress_jax.types import Ratio

original = functools.partial(Ratio, of='original')


def equal_tokens(counts):
  """Ours: tokens that enter a layer, mean over all layers."""
  return flops.equal_tokens([(n, n) for n in counts])


def test_flops_of_a_decoder_layer():
  # Vicuna-7B, 576 tokens: C = 4096, m = 11008. Multiply-adds, counted once.
  attention = 38_654_705_664 + 2_717_908_992  # 4 n C^2 + 2 n^2 C
  count = functools.partial(
    flops.layer_flops, 576, 576, width=4096, hidden=11008
  )
  # Some papers write two matrices of the MLP, some the three that it has.
  assert count() == attention + 2 * 25_971_130_368 == 93_314_875_392
  assert count(gated=True) == attention + 3 * 25_971_130_368
  assert count(gated=True) == 119_286_005_760
  # FastV's K = 2, R = 0.5 by the first: 52.5% of all layers with all tokens.
  counts = schedules.at_layers({2: original(ratio=0.5)}, depth=32, tokens=576)
  run = functools.partial(flops.model_flops, width=4096, hidden=11008)
  pruned = run([(n, n) for n in counts])
  half = 19_327_352_832 + 679_477_248 + 25_971_130_368
  assert pruned == 2 * 93_314_875_392 + 30 * half
  assert pruned / run([(576, 576)] * 32) == pytest.approx(0.525, abs=1e-3)


@pytest.mark.parametrize(
  ('stages', 'total', 'printed'),
  [
    # SparseVLM, as the comment in its code counts: 2 layers with all tokens.
    ({2: 300, 6: 200, 16: 110}, 2 * 576 + 4 * 300 + 10 * 200 + 16 * 110, 191.0),
    ({2: 66, 6: 30, 16: 17}, 2 * 576 + 4 * 66 + 10 * 30 + 16 * 17, 62.1),
    # Its version 2; the tokens that version 1 recycles are not counted.
    ({2: 66, 6: 34, 16: 20}, 2 * 576 + 4 * 66 + 10 * 34 + 16 * 20, 64.9),
    # What the first row's code does: it prunes inside layers 2, 6 and 15.
    (
      {3: 300, 7: 200, 16: 110},
      3 * 576 + 4 * 300 + 9 * 200 + 16 * 110,
      202.75,
    ),
    # PyramidDrop
    (
      {8: 0.5, 16: 0.25, 24: 0.125},
      8 * 576 + 8 * 288 + 8 * 144 + 8 * 72,
      270,
    ),
    # TransPrune
    (
      {7: 0.875, 9: 0.625, 12: 0.125},
      7 * 576 + 2 * 504 + 3 * 360 + 20 * 72,
      236.3,
    ),
    # FastV, K = 2 and R = 0.5; K = 3 and R = 0.75
    ({2: 0.5}, 2 * 576 + 30 * 288, 306),
    ({3: 0.25}, 3 * 576 + 29 * 144, 184.5),
  ],
)
def test_equal_tokens_of_stages(stages, total, printed):
  """Ours: a stage at layer l is before it, so l layers have the tokens."""
  budgets = {
    layer: original(ratio=kept) if isinstance(kept, float) else kept
    for layer, kept in stages.items()
  }
  counts = schedules.at_layers(budgets, depth=32, tokens=576)
  assert sum(counts) == total
  assert equal_tokens(counts) == total / 32
  assert abs(equal_tokens(counts) - printed) <= 0.0501


def test_aim_in_layers():
  """What AIM drops behind layer l is what layer l + 1 does not see."""
  keep = schedules.keep_linear(depth=28, start=14, slope=0.125)
  assert keep[:14] == (1,) * 14
  assert keep[14:21] == (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)
  assert keep[21:] == (0,) * 7
  assert sum(keep) == 14 + 3.5
  # Of the quarter that merging has left: 576 to 144.
  merged = Ratio(ratio=0.25)
  tokens = schedules.at_layers({0: merged}, depth=1, tokens=576)[0]
  counts = schedules.to_counts(keep, tokens)
  assert tokens == 144 and sum(counts) == 17.5 * 144
  assert equal_tokens(counts) == 90


def test_p_mod():
  """Ours: a layer above 0.85 runs all tokens, so it counts as 1."""
  keep = schedules.keep_cosine(depth=32)
  ratio = np.cos(np.pi * np.arange(32) / 31) / 2 + 0.5
  want = [1 if r > 0.85 else max(r, 0.15) for r in ratio]
  np.testing.assert_allclose(keep, want, atol=1e-12)
  # 8 whole layers, 8 of 0.15, and 16 between that lie evenly about a half.
  assert sum(keep) == pytest.approx(8 + 8 * 0.15 + 16 * 0.5)
  assert abs(100 * sum(keep) / 32 - 53.8) <= 0.0501


def simulated(r):
  """Tokens after each of 12 layers: r leave, or half beside the class token."""
  tokens, left = 197, []
  for _ in range(12):
    tokens -= min(r, (tokens - 1) // 2)
    left.append(tokens)
  return left


@pytest.mark.parametrize(('r', 'last'), [(13, 41), (25, 2)])
def test_tome_of_deit_small(r, last):
  plan = pruners.tome_plan(r, depth=12)
  counts = models.token_counts(models.vit_config.PRESETS['vit-s16'], plan)
  assert [n for _, n in counts] == simulated(r)
  assert [n for n, _ in counts] == [197, *simulated(r)[:-1]]
  assert counts[-1][1] == last
  if r == 13:
    assert last == 197 - 12 * 13


def test_pyramid_kv_of_kvpress():
  """Ours: `ratio` is kept; kvpress's compression_ratio is what is not."""
  mean = 4096 * 0.5
  least = mean / 20
  assert (least, 2 * mean - least) == (102.4, 3993.6)
  assert 2 * mean - least <= 4096 - 64 == 4032
  counts = schedules.pyramid(
    depth=32, tokens=4096, ratio=0.5, window=64, beta=20
  )
  assert (counts[0], counts[-1]) == (round(3993.6), round(102.4)) == (3994, 102)
  step = (3993.6 - 102.4) / 31
  assert counts == tuple(round(3993.6 - i * step) for i in range(32))
  assert equal_tokens(counts) == pytest.approx(2048, abs=0.5)
  # It needs max >= min >= window: else every layer keeps the mean.
  even = schedules.pyramid(depth=32, tokens=4096, ratio=0.4, window=103)
  assert 4096 * 0.4 / 20 < 103
  assert even == (round(4096 * 0.4),) * 32
