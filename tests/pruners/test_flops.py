"""FLOPs by the stated formula; papers' numbers: test_published_numbers.py."""

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


def test_equal_tokens_count_those_that_enter():
  assert flops.equal_tokens([(10, 4), (4, 4), (4, 1)]) == 6
