"""Numbers that papers print, from the stated formula and the schedules."""

import pytest

from tokpress_jax.pruners import flops


def stages(*pairs):
  """Counts of layers in stages of (layers, tokens)."""
  return [(n, n) for layers, n in pairs for _ in range(layers)]


def test_deit_small():
  counts = stages((12, 197))
  assert flops.model_flops(counts, width=384, hidden=1536) == 12 * (
    4 * 197 * 384**2 + 2 * 197**2 * 384 + 8 * 197 * 384**2
  )


def test_tokens_that_leave_between_attention_and_mlp():
  assert flops.layer_flops(10, 4, width=2, hidden=3, gated=True) == (
    4 * 10 * 4 + 2 * 100 * 2 + 3 * 4 * 2 * 3
  )


@pytest.mark.parametrize(
  ('pairs', 'equal'),
  [
    (((2, 576), (4, 300), (10, 200), (16, 110)), 191.0),  # SparseVLM
    (((8, 576), (8, 288), (8, 144), (8, 72)), 270.0),  # PyramidDrop
    (((7, 576), (2, 504), (3, 360), (20, 72)), 236.25),  # TransPrune
    (((2, 576), (30, 288)), 306.0),  # FastV, K = 2, R = 0.5
    (((3, 576), (29, 144)), 184.5),  # FastV, K = 3, R = 0.75
  ],
)
def test_equal_tokens(pairs, equal):
  assert flops.equal_tokens(stages(*pairs)) == equal
