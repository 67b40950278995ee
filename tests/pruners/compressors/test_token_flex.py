"""TokenFLEX against NumPy: pooling, projector, drawn numbers of tokens."""

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors

GRID, SIDES = (7, 7), (2, 3, 5)
MODULE = compressors.TokenFLEX(sides=SIDES, grid=GRID, out=6, hidden=10)
IMAGE = case.draw('flex', 3, 49, 4)
WEIGHTS = {
  name: {'kernel': case.draw(name, *shape)}
  for name, shape in (('gate', (4, 10)), ('value', (4, 10)), ('last', (10, 6)))
}


@jax.jit
def padded(x, choice):
  return MODULE.apply({'params': WEIGHTS}, x, choice, method='padded')


def by_hand(x, side):
  """New tokens [side^2, F] of one image [49, D]."""
  x = np.float64(x).reshape(7, 7, -1)
  cut = lambda i: slice(
    int(np.floor(i * 7 / side)), int(np.ceil((i + 1) * 7 / side))
  )
  y = np.stack(
    [
      x[cut(i), cut(j)].mean(axis=(0, 1))
      for i in range(side)
      for j in range(side)
    ]
  )
  gate, value, last = (np.float64(WEIGHTS[k]['kernel']) for k in WEIGHTS)
  z = y @ gate
  return (z * special.expit(z) * (y @ value)) @ last


@pytest.mark.parametrize('side', [*SIDES, 4])
def test_tokens_are_those_of_numpy(side):
  run = lambda x: MODULE.apply({'params': WEIGHTS}, x, side=side)
  want = np.stack([by_hand(x, side) for x in IMAGE])
  np.testing.assert_allclose(jax.jit(run)(IMAGE), want, atol=1e-4)


def test_a_traced_choice_is_the_static_one_and_compiles_once():
  before = padded._cache_size()
  for choice in ([0, 1, 2], [2, 2, 0]):
    y, valid = padded(IMAGE, jnp.asarray(choice))
    assert y.shape == (3, 25, 6)
    for row, place in enumerate(choice):
      side = SIDES[place]
      assert valid[row].tolist() == [i < side**2 for i in range(25)]
      want = by_hand(IMAGE[row], side)
      np.testing.assert_allclose(y[row, : side**2], want, atol=1e-4)
  assert padded._cache_size() == before + 1


def test_sides_are_drawn_two_to_three_to_five():
  module = compressors.TokenFLEX()
  keys = jax.random.split(jax.random.key(1), 4_000)
  drawn = jax.jit(jax.vmap(lambda k: module.apply({}, k, method='draw')))(keys)
  share = np.bincount(drawn, minlength=3) / 4_000
  np.testing.assert_allclose(share, [0.2, 0.3, 0.5], atol=0.03)


def test_published_numbers_of_tokens():
  module = compressors.TokenFLEX()
  x = jax.ShapeDtypeStruct((2, 729, 1152), jnp.bfloat16)
  key = jax.random.key(0)
  init = lambda key, x: module.init(key, x, side=8)
  params = jax.eval_shape(init, key, x)
  for side, tokens in ((8, 64), (12, 144), (16, 256)):
    run = lambda v, x, side=side: module.apply(v, x, side=side)
    assert jax.eval_shape(run, params, x).shape == (2, tokens, 3584)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r'grid of \(7, 7\) has 49'):
    MODULE.apply({'params': WEIGHTS}, IMAGE[:, 1:], side=2)
  with pytest.raises(UserError, match='as many weights'):
    compressors.TokenFLEX(sides=(2,)).init(
      jax.random.key(0), jnp.zeros((1, 729, 2)), side=2
    )
