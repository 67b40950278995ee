"""Regions of grids, and new tokens as `Tokens`."""

import compressors_case as case
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
