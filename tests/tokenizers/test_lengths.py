"""Length policies, rounding, and the samplers of nested dropout."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.tokenizers import (
  Fixed,
  Prefix,
  legal_length,
  prefix_mask,
  round_down,
  sample_lengths,
)

SCALES = (1, 5, 14, 30)
LINE = tuple(range(1, 13))


@pytest.mark.parametrize('bounds', [SCALES, LINE, (4, 8), (1,)])
def test_rounding_down_equals_loops(bounds):
  budgets = np.arange(bounds[-1] + 5)
  want = [
    max([b for b in bounds if b <= n], default=bounds[0]) for n in budgets
  ]
  got = jax.jit(lambda n: round_down(n, bounds))(budgets)
  np.testing.assert_array_equal(got, want)


def test_legal_budgets_are_kept_in_silence():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert [legal_length(n, SCALES) for n in SCALES] == list(SCALES)
    assert legal_length(7, LINE) == 7


def test_a_budget_between_boundaries_is_rounded_down_and_said():
  with pytest.warns(UserWarning, match=r'using 5 \(legal: 1, 5, 14, 30\)'):
    assert legal_length(13, SCALES) == 5


@pytest.mark.parametrize('budget', [-1, 0, 31])
def test_budgets_that_do_not_fit_are_refused(budget):
  with pytest.raises(UserError, match=f'of {budget} tokens .* uses 1 to 30'):
    legal_length(budget, SCALES)
  with pytest.raises(UserError, match='does not fit'):
    Fixed(tokens=budget).lengths(2, SCALES)


def test_policies():
  np.testing.assert_array_equal(Fixed().lengths(2, SCALES), [30, 30])
  np.testing.assert_array_equal(Fixed(tokens=5).lengths(2, SCALES), [5, 5])
  got = jax.jit(lambda n: Prefix(n).lengths(4, SCALES))(
    jnp.array([0, 6, 14, 99])
  )
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, [1, 5, 14, 30])
  with pytest.raises(ValueError, match=r'one length per image, \[3\]'):
    Prefix(jnp.array([1, 5])).lengths(3, SCALES)


def test_prefix_mask():
  got = prefix_mask(jnp.array([0, 2, 3]), 3)
  np.testing.assert_array_equal(got, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


def draw(bounds, seed=0, size=4000, **options):
  return np.asarray(
    sample_lengths(jax.random.key(seed), size, bounds, **options)
  )


def shares(lengths):
  values, counts = np.unique(lengths, return_counts=True)
  return dict(zip(values.tolist(), counts / lengths.size, strict=True))


@pytest.mark.parametrize(
  'bounds, sampler, legal',
  [
    (SCALES, 'uniform', SCALES),
    (LINE, 'uniform', LINE),
    (LINE, 'powers', (1, 2, 4, 8, 12)),
    (SCALES, 'powers', (1, 5, 14, 30)),  # 8 and 16 become 5 and 14
    ((3, 9), 'powers', (3, 9)),
    (LINE, 'none', (12,)),
  ],
)
def test_samplers_draw_their_lengths_evenly(bounds, sampler, legal):
  found = shares(draw(bounds, sampler=sampler))
  assert tuple(found) == legal
  np.testing.assert_allclose(list(found.values()), 1 / len(legal), atol=0.03)


def test_full_keeps_the_whole_row_so_often():
  found = shares(draw(SCALES, full=0.5))
  np.testing.assert_allclose(found.pop(30), 0.5 + 0.5 / 4, atol=0.03)
  np.testing.assert_allclose(list(found.values()), 0.5 / 4, atol=0.03)
  assert shares(draw(SCALES, full=1.0, size=50)) == {30: 1.0}


def test_lengths_are_fixed_by_their_key():
  first = draw(LINE, size=50)
  assert first.dtype == np.int32
  np.testing.assert_array_equal(first, draw(LINE, size=50))
  assert (first != draw(LINE, seed=1, size=50)).any()


def test_unknown_sampler_is_refused():
  with pytest.raises(ValueError, match="'poisson'; try 'uniform', 'powers'"):
    draw(LINE, sampler='poisson')
