"""Regions of grids, and new tokens as `Tokens`."""

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors


def by_hand(length, size):
  """HICom's balanced parts, one after the other."""
  number = -(-length // size)
  whole = length % number or number
  start, out = 0, []
  for i in range(number):
    new = size - (i >= whole)
    out.append(list(range(start - (i >= whole), start + new)))
    start += new
  return out


@pytest.mark.parametrize(
  ('length', 'size'), [(8, 4), (27, 3), (10, 4), (7, 4), (26, 3), (11, 3)]
)
def test_spans_are_the_balanced_ones(length, size):
  assert compressors.spans(length, size).tolist() == by_hand(length, size)


@pytest.mark.parametrize(('length', 'size'), [(5, 4), (9, 8), (3, 4), (1, 2)])
def test_spans_cover_what_the_official_code_cannot_split(length, size):
  at = compressors.spans(length, size)
  assert len(at) == -(-length // size)
  assert set(at.ravel().tolist()) == set(range(length))


def test_regions_of_a_grid_are_its_windows():
  got = compressors.grid_regions((4, 6), (2, 3))
  index = np.arange(24).reshape(4, 6)
  want = [index[i : i + 2, j : j + 3].ravel() for i in (0, 2) for j in (0, 3)]
  np.testing.assert_array_equal(got, want)
  assert compressors.grid_regions((5, 4, 6), (2, 2, 2)).shape == (18, 8)


def test_a_projector_of_low_rank_is_the_nearest():
  weights = {
    name: {'kernel': case.draw(name, *shape), 'bias': case.draw(name, shape[1])}
    for name, shape in (('fc1', (6, 9)), ('fc2', (9, 9)))
  }
  x = jnp.asarray(case.draw('x', 2, 5, 6))
  run = lambda weights, rank: compressors.Projector((9, 9), rank=rank).apply(
    weights, x
  )
  whole = run({'params': weights}, None)
  same = compressors.factor_projector({'params': weights}, rank=6)
  kernels = same['params']['fc1_in']['kernel'], same['params']['fc1']['kernel']
  np.testing.assert_allclose(
    kernels[0] @ kernels[1], weights['fc1']['kernel'], atol=1e-5
  )
  low = compressors.factor_projector({'params': weights}, rank=2)
  near = {}
  for name, layer in weights.items():
    values, vectors = np.linalg.eigh(layer['kernel'].T @ layer['kernel'])
    top = vectors[:, np.argsort(-values)[:2]]  # of the rows' largest variance
    kernel = layer['kernel'] @ top @ top.T
    near[name] = {**layer, 'kernel': np.float32(kernel)}
  np.testing.assert_allclose(
    run(low, 2), run({'params': near}, None), atol=1e-4
  )
  assert jnp.abs(run(low, 2) - whole).max() > 0.1
  shapes = jax.eval_shape(
    compressors.Projector((9, 9), rank=2).init, jax.random.key(0), x
  )
  assert jax.tree.map(jnp.shape, low) == jax.tree.map(jnp.shape, shapes)
  with pytest.raises(UserError, match=r'rank 7 is outside 1 to 6.*fc1'):
    compressors.factor_projector({'params': weights}, rank=7)
  with pytest.raises(UserError, match=r'rank 2\.5 is outside'):
    compressors.factor_projector({'params': weights}, rank=2.5)
  for wrong in (low, weights, compressors.Projector((9,))):
    with pytest.raises(
      UserError, match='variables of a Projector without rank'
    ):
      compressors.factor_projector(wrong, rank=2)


def test_tokens_of_new_places():
  x = jnp.asarray(case.draw('new_places', 4, 6, 3))
  valid = jnp.asarray([True, False, True, True])
  tokens = compressors.as_tokens(x, grid=(4, 6), new_grid=(2, 3), valid=valid)
  np.testing.assert_allclose(tokens.positions[0, :2], [[0.5, 0.5], [0.5, 2.5]])
  np.testing.assert_allclose(tokens.mass[0], 4)
  assert tokens.mass[1].sum() == 0 and not tokens.valid[1].any()
  assert tokens.source_count.tolist() == [24, 0, 24, 24]
  numbered = compressors.as_tokens(x, grid=(4, 6))
  assert numbered.positions[0, :, 0].tolist() == list(range(6))
  refuse = lambda text: pytest.raises(UserError, match=text)
  with refuse('has 4 places, and 6'):
    compressors.as_tokens(x, grid=(4, 6), new_grid=(2, 2))
  with refuse(r'new tokens are \[B, K, D\], got \(4, 6\)'):
    compressors.as_tokens(x[..., 0], grid=(4, 6))
  with refuse(r'valid must be bool \[4\] or \[4, 6\], got \(3,\)'):
    compressors.as_tokens(x, grid=(4, 6), valid=valid[:3])
