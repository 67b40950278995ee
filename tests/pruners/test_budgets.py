"""Budgets: static capacities, and rows that keep what they would alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import budgets
from tokpress_jax.types import Ratio, Tokens

BUDGETS = [
  7,
  Ratio(ratio=0.5),
  Ratio(ratio=0.07, rounding='ceil'),
  Ratio(ratio=0.3, rounding='floor', minimum=2),
  Ratio(ratio=0.3, of='original'),
  pruners.Bytes(limit=100, per_token=16),
  pruners.Remove(tokens=3),
]


def make(lengths, slots, *, leading=1):
  at = np.arange(slots)[None]
  valid = at < np.array(lengths)[:, None]
  return Tokens.create(
    np.zeros((*valid.shape, 1), np.float32),
    valid=valid,
    protected=np.broadcast_to(at < leading, valid.shape),
  )


@pytest.mark.parametrize('budget', BUDGETS, ids=str)
def test_a_padded_row_keeps_what_it_keeps_alone(budget):
  lengths = (8, 9, 20, 33, 41)
  counts = np.asarray(budgets.row_counts(budget, make(lengths, 41)))
  capacity = budgets.capacity(budget, make(lengths, 41))
  for n, count in zip(lengths, counts, strict=True):
    assert count + 1 == budgets.capacity(budget, make((n,), n))
    assert 1 <= count < capacity


@pytest.mark.parametrize('rounding', ['floor', 'round', 'ceil'])
def test_ratios_mean_the_decimal_that_was_written(rounding):
  for hundredths in range(1, 101):
    ratio = Ratio(ratio=hundredths / 100, rounding=rounding)
    assert budgets.resolve(ratio, 100, 100) == hundredths


def test_original_ratio_counts_tokens_at_the_embedding():
  tokens = make((21, 11), 21)
  tokens, _ = pruners.Stride(budget=Ratio(ratio=0.5))(tokens)
  assert tokens.features.shape[1] == 11
  ratio = Ratio(ratio=0.2, of='original')
  out, _ = pruners.Stride(budget=ratio)(tokens)
  assert out.features.shape[1] == 5
  assert out.valid.sum(axis=1).tolist() == [5, 3]


@pytest.mark.parametrize('budget', [0, -1, 20, 21])
def test_budgets_out_of_range_say_the_range(budget):
  with pytest.raises(ValueError, match=r'outside 1 to 19.*beside 1 protected'):
    pruners.Stride(budget=budget)(make((20,), 20))


def test_other_bad_budgets():
  with pytest.raises(ValueError, match=r'in \(0, 1\], got 1.5'):
    Ratio(ratio=1.5)
  with pytest.raises(ValueError, match='hold no token'):
    pruners.Bytes(limit=3, per_token=4)
  with pytest.raises(ValueError, match='at least 1'):
    pruners.Remove(tokens=0)
  with pytest.raises(ValueError, match=r'Remove, got 0.5.*Ratio\(ratio=0.5\)'):
    pruners.ToMe(budget=0.5)
  with pytest.raises(ValueError, match=r'Remove, got True$'):
    pruners.Stride(budget=True)


def test_budgets_are_resolved_at_trace_time():
  tokens = make((20,), 20)
  with pytest.raises(ValueError, match='outside 1 to 19'):
    jax.eval_shape(pruners.Stride(budget=30), tokens)
  with pytest.raises(ValueError, match='give num_protected'):
    jax.eval_shape(
      lambda p: Tokens.create(jnp.zeros((1, 4, 2)), protected=p),
      jax.ShapeDtypeStruct((1, 4), bool),
    )


def test_cache_bytes():
  # LLaVA-1.5-7B: 32 layers of 32 heads of 128, half a mebibyte a token.
  assert pruners.cache_bytes(layers=32, heads=32, head_dim=128) == 2**19
