"""Position policies against loops and PPE's official code (golden file)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pruners_case as case
import pytest

from tokpress_jax import nn, pruners
from tokpress_jax.pruners import positions
from tokpress_jax.types import Dense, Ratio, Signals, Tokens

GOLDEN = np.load(
  pathlib.Path(__file__).parent.parent / 'golden' / 'pruners.npz'
)


def clusters():
  at = np.arange(17)
  grid = np.stack([at // 10, at // 4, at % 4], axis=-1)
  tokens = Tokens.create(
    case.features(), positions=jnp.broadcast_to(grid, (2, 17, 3))
  )
  reduction = pruners.dpc_knn(
    tokens.features,
    tokens,
    count=jnp.array([6, 6]),
    capacity=6,
    order='score',
  )
  return tokens, reduction


def test_members_equal_ppe():
  tokens, reduction = clusters()
  policy = pruners.Members(count=4, axes=3)
  placed = positions.place(tokens.positions, reduction, policy=policy)
  for row in range(2):
    np.testing.assert_array_equal(placed.positions[row].T, GOLDEN[f'ppe_{row}'])
  # A later reduction takes one member, which brings all that it has.
  later = Tokens.create(
    placed.positions[..., :1].astype(float), positions=placed.positions
  )
  pairs = pruners.windows(
    later,
    size=(2,),
    capacity=3,
    coordinates=jnp.arange(6)[None, :, None] * jnp.ones((2, 1, 1), int),
  )
  again = positions.place(later.positions, pairs, policy=policy)
  np.testing.assert_array_equal(again.positions, placed.positions[:, 1::2])


def test_the_heaviest_members_come_first_and_repeat():
  tokens, reduction = clusters()
  weights = np.abs(case.draw(30, 2, 17))
  got = positions.members(
    tokens.positions, reduction, count=3, weights=jnp.asarray(weights)
  )
  target = np.asarray(reduction.assign.target)
  for row in range(2):
    for k in range(6):
      inside = np.flatnonzero(target[row] == k)
      inside = inside[np.argsort(-weights[row, inside])]
      take = [inside[i % len(inside)] for i in range(3)]
      want = np.asarray(tokens.positions[row])[take].T.reshape(-1)
      np.testing.assert_array_equal(got[row, k], want)


def test_members_say_what_is_wrong():
  tokens, reduction = clusters()
  soft = reduction.replace(assign=Dense(pruners.dense(reduction)))
  with pytest.raises(ValueError, match='one-hot assignments, got Dense'):
    positions.members(tokens.positions, soft, count=2)
  with pytest.raises(ValueError, match='do not come from positions of 3 axes'):
    positions.place(
      tokens.positions, reduction, policy=pruners.Members(count=2)
    )
  with pytest.raises(ValueError, match='or Members'):
    positions.place(tokens.positions, reduction, policy='first_n')


def test_first_takes_the_first_positions_of_the_row():
  where = jnp.array([[[3], [5], [8], [9], [12], [0]]])
  tokens = Tokens.create(
    jnp.ones((1, 6, 2)),
    positions=where,
    valid=jnp.arange(6)[None] < 5,
    protected=jnp.arange(6)[None] == 4,
  )
  pruner = pruners.Stride(budget=2, positions='first')
  out, reduction = pruner(tokens)
  assert reduction.index[0].tolist() == [1, 3, 4]
  assert out.positions[0, :, 0].tolist() == [3, 5, 8]


def test_members_travel_through_a_pruner():
  tokens = Tokens.create(jax.random.normal(jax.random.key(0), (2, 9, 4)))
  pruner = pruners.ToMe(
    budget=Ratio(ratio=0.6),
    metric='features',
    positions=pruners.Members(count=2),
  )
  out, reduction = jax.jit(pruner)(tokens, Signals())
  target = np.asarray(reduction.assign.target)
  for row in range(2):
    for k in range(out.positions.shape[1]):
      inside = np.flatnonzero(target[row] == k)[::-1]
      want = [inside[0], inside[1 % len(inside)]]
      assert out.positions[row, k].tolist() == want


def test_a_single_member_turns_as_mrope_does():
  grid = np.array([[[2, 3, 5], [0, 7, 1]]])
  x = jax.random.normal(jax.random.key(1), (1, 2, 2, 16))
  once = nn.sectioned_rotation(grid, (2, 4, 2))
  several = nn.sectioned_rotation(
    np.repeat(grid, 2, axis=-1), nn.split_sections((2, 4, 2), 2)
  )
  np.testing.assert_allclose(
    nn.rotate(x, once), nn.rotate(x, several), atol=1e-6
  )
