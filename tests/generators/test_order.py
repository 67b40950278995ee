import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.generators import order


@pytest.mark.parametrize(
  'made, rank',
  [
    (order.raster(3), [0, 1, 2]),
    (order.blocks((1, 2)), [0, 1, 1]),
    (order.cells((2, 4), (2, 2)), [0, 0, 1, 1, 0, 0, 1, 1]),
    (order.diagonals((2, 3)), [0, 1, 2, 1, 2, 3]),
  ],
)
def test_ranks_and_sizes(made, rank):
  assert list(made.rank) == rank
  assert made.sizes == tuple(np.bincount(rank))
  assert made.num_tokens == len(rank)
  assert made.starts == tuple(np.cumsum((0, *made.sizes[:-1])))


@pytest.mark.parametrize('traced', [False, True])
def test_to_sequence_sorts_and_to_positions_undoes(traced):
  made = order.diagonals((3, 4))
  if traced:
    made = order.random(jax.random.key(0), 2, (1, 5, 6))
  x = jax.random.normal(jax.random.key(1), (2, 12, 3))
  seq = jax.jit(lambda x: made.to_sequence(x))(x)
  rank = np.broadcast_to(np.asarray(made.rank), (2, 12))
  for b in range(2):
    by_rank = sorted(range(12), key=lambda i: (rank[b, i], i))
    np.testing.assert_array_equal(seq[b], x[b, jnp.array(by_rank)])
  np.testing.assert_array_equal(made.to_positions(seq), x)


def test_by_score_puts_the_highest_first_and_ties_by_position():
  scores = jnp.array([[0.1, 0.9, 0.5, 0.5]])
  assert order.by_score(scores, (1, 1, 2)).rank.tolist() == [[2, 0, 1, 2]]
  with pytest.raises(ValueError, match='sum to 3'):
    order.by_score(scores, (1, 2))


def test_random_order_is_uniform_over_positions():
  made = order.random(jax.random.key(0), 3000, (1, 3))
  first = np.bincount(np.argmin(made.rank, axis=1), minlength=4) / 3000
  assert np.abs(first - 0.25).max() < 0.04
  assert (np.sort(made.rank, axis=1) == [0, 1, 1, 1]).all()


@pytest.mark.parametrize('schedule', ['cosine', 'arccos', 'linear', 'square'])
@pytest.mark.parametrize('tokens, steps', [(256, 8), (32, 8), (5, 5), (4, 1)])
def test_reveal_counts_sum_and_follow_the_schedule(schedule, tokens, steps):
  counts = order.reveal_counts(tokens, steps, schedule)
  assert len(counts) == steps and sum(counts) == tokens
  assert min(counts) >= 0 and counts[-1] >= 1


def test_reveal_counts_of_maskgit():
  # floor(256 cos(pi/2 k/8)), k = 1 ... 7: 251 236 212 181 142 97 49.
  assert order.reveal_counts(256, 8) == (5, 15, 24, 31, 39, 45, 48, 49)
  with pytest.raises(ValueError, match='1 to 4 steps, got 5'):
    order.reveal_counts(4, 5)
  with pytest.raises(ValueError, match='unknown schedule'):
    order.reveal_counts(4, 2, 'sine')


def test_bad_blocks_and_cells():
  with pytest.raises(ValueError, match='at least one token'):
    order.blocks((1, 0))
  with pytest.raises(ValueError, match='do not tile'):
    order.cells((16, 16), (5, 8))
