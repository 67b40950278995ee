"""Selectors, scores and position policies against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import positions, scores, selectors
from tokpress_jax.types import Tokens

SCORES = np.array([[0.5, np.nan, 2.0, 0.5, -np.inf, 9.0, 0.1, 0.5]])
VALID = np.array([[True] * 5 + [False] + [True] * 2])
PROTECTED = np.array([[False] * 6 + [True, False]])


@pytest.mark.parametrize(
  ('count', 'best_first'),
  [(1, [6, 2]), (3, [6, 2, 0, 3]), (5, [6, 2, 0, 3, 7, 4])],
)
def test_top(count, best_first):
  kept, rank = selectors.top(
    SCORES, count=jnp.array([count]), valid=VALID, protected=PROTECTED
  )
  assert np.flatnonzero(kept[0]).tolist() == sorted(best_first)
  tokens = Tokens.create(
    np.zeros((1, 8, 1), np.float32), valid=VALID, protected=PROTECTED
  )
  k = count + 2
  by_score = selectors.selection(tokens, kept, capacity=k, rank=rank)
  in_place = selectors.selection(tokens, kept, capacity=k)
  assert by_score.index[0, :-1].tolist() == best_first
  assert in_place.index[0, :-1].tolist() == sorted(best_first)
  for reduction in (by_score, in_place):
    assert reduction.valid[0].tolist() == [True] * (k - 1) + [False]
    target = np.asarray(reduction.assign.target[0])
    assert target[reduction.index[0, :-1]].tolist() == list(range(k - 1))
    assert (target >= 0).sum() == k - 1


def test_spaced_takes_the_middle_of_equal_parts():
  valid = np.ones((1, 12), bool)
  protected = np.zeros((1, 12), bool)
  for count, want in [(3, [2, 6, 10]), (4, [1, 4, 7, 10]), (12, range(12))]:
    kept = selectors.spaced(
      count=jnp.array([count]), valid=valid, protected=protected
    )
    assert np.flatnonzero(kept[0]).tolist() == list(want)
  lengths, counts = np.tril_indices(41)  # always exactly the count
  valid = np.arange(40)[None] < lengths[:, None]
  kept = selectors.spaced(
    count=jnp.asarray(counts), valid=valid, protected=np.zeros_like(valid)
  )
  np.testing.assert_array_equal(kept.sum(axis=1), counts)
  assert not (kept & ~valid).any()


def test_attention_row_and_norm():
  row = np.random.default_rng(0).random((2, 3, 5)).astype(np.float32)
  for name in ('mean', 'sum', 'max'):
    np.testing.assert_allclose(
      scores.attention_row(row, heads=name),
      getattr(row, name)(axis=1),
      rtol=1e-6,
    )
  x = row - 0.5
  np.testing.assert_allclose(
    scores.norm(x, order=1), np.abs(x).sum(-1), rtol=1e-6
  )
  np.testing.assert_allclose(scores.norm(x), np.sqrt((x**2).sum(-1)), rtol=1e-6)


def test_random_scores_are_fair_and_depend_on_the_key():
  keys = jax.random.split(jax.random.key(0), 400)
  draw = np.asarray(scores.random(keys, jnp.ones((400, 6), bool)))
  np.testing.assert_allclose(draw.mean(axis=0), 0.5, atol=0.08)
  assert len(np.unique(draw)) == draw.size


def test_position_policies():
  tokens = Tokens.create(
    np.arange(5, dtype=np.float32).reshape(1, 5, 1),
    positions=np.array([[[0, 0], [0, 2], [0, 4], [6, 0], [8, 2]]]),
    valid=np.array([[True, True, True, True, False]]),
  )
  kept = np.array([[False, True, False, True, False]])
  reduction = selectors.selection(tokens, kept, capacity=3)
  target = jnp.array([[1, 0, 0, 1, -1]])
  merged = reduction.replace(
    assign=reduction.assign.replace(target=target, merged=None)
  )
  place = lambda policy: (
    positions.place(tokens.positions, merged, policy=policy)
    .positions[0]
    .tolist()
  )
  assert place('keep') == [[0, 2], [6, 0], [0, 0]]
  assert place('compact') == [[0, 0], [1, 1], [0, 0]]
  assert place('mean') == [[0, 3], [3, 0], [0, 0]]
  with pytest.raises(ValueError, match='unknown position policy'):
    place('middle')


def test_positions_of_a_pruner_follow_its_policy():
  tokens = Tokens.create(np.zeros((1, 6, 1), np.float32))
  where = lambda p: pruners.Stride(budget=2, positions=p)(tokens)[0].positions
  assert where('keep')[0, :, 0].tolist() == [1, 4]
  assert where('compact')[0, :, 0].tolist() == [0, 1]
