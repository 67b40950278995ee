"""TokenFLEX: adaptive pooling against NumPy, and drawn numbers of tokens."""

import compressor_weights
import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors

GRID, SIDES = (7, 7), (2, 3, 5)
MODULE = compressors.TokenFLEX(
  sides=SIDES, grid=GRID, width=case.FLEX['width'], out=case.FLEX['out']
)
IMAGE = case.draw('flex_images', 3, 49, case.FLEX['width'])
WEIGHTS = compressor_weights.variables(
  'token-flex', case.flex_shapes(), MODULE.config
)['params']


@jax.jit
def padded(x, choice):
  return MODULE.apply({'params': WEIGHTS}, x, choice, method='padded')


def static(x, side, **fields):
  run = lambda x: MODULE.clone(**fields).apply(
    {'params': WEIGHTS}, x, side=side
  )
  return jax.jit(run)(x)


def by_hand(x, side):
  """New tokens [side^2, F] of one image [49, D], adaptive."""
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
  y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1) + 1e-5)[:, None]
  y = y * WEIGHTS['norm']['scale'] + WEIGHTS['norm']['bias']
  dense = lambda y, name: y @ WEIGHTS[name]['kernel'] + WEIGHTS[name]['bias']
  gate = dense(y, 'gate')
  return dense(gate * special.expit(gate) * dense(y, 'value'), 'out_proj')


@pytest.mark.parametrize('side', [*SIDES, 4])
def test_adaptive_pooling_is_that_of_numpy(side):
  got = static(IMAGE, side, pooling='adaptive')
  want = np.stack([by_hand(x, side) for x in IMAGE])
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize('size', [(7, 5), (27, 27)])
def test_both_kinds_are_means(size):
  for method in ('resized', 'adaptive'):
    matrix = compressors.pooling_matrix(size, 4, method=method)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=1e-5)
    assert matrix.shape == (16, size[0] * size[1]) and matrix.min() >= 0
  a, b = (
    compressors.pooling_matrix((8, 8), 4, method=m)
    for m in ('resized', 'adaptive')
  )
  np.testing.assert_allclose(a, b, atol=1e-6)  # where it divides


def test_a_traced_choice_is_the_static_one_and_compiles_once():
  want = [static(IMAGE, side) for side in SIDES]
  before = padded._cache_size()
  for choice in ([0, 1, 2], [2, 2, 0]):
    y, valid = padded(IMAGE, jnp.asarray(choice))
    assert y.shape == (3, 25, case.FLEX['out'])
    for row, place in enumerate(choice):
      count = SIDES[place] ** 2
      assert valid[row].tolist() == [i < count for i in range(25)]
      np.testing.assert_allclose(y[row, :count], want[place][row], atol=1e-5)
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
  with np.load(case.GOLDEN) as file:
    count = sum(x.size for x in jax.tree.leaves(params))
    assert count == file['flex/parameters']


def test_bfloat16_and_gradients():
  half = static(IMAGE.astype(jnp.bfloat16), 3, dtype=jnp.bfloat16)
  want = np.asarray(static(IMAGE, 3))
  assert half.dtype == jnp.bfloat16
  assert np.abs(np.float32(half) - want).mean() < 0.05 * want.std()
  loss = lambda v: jnp.sum(
    MODULE.apply({'params': v}, IMAGE, jnp.int32(1), method='padded')[0] ** 2
  )
  for gradient in jax.tree.leaves(jax.jit(jax.grad(loss))(WEIGHTS)):
    assert np.abs(gradient).max() > 1e-3


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r'grid of \(7, 7\) has 49'):
    static(IMAGE[:, 1:], 2)
  with pytest.raises(UserError, match='as many weights'):
    static(IMAGE, 2, sides=(2,))
  with pytest.raises(UserError, match="got 'mean'"):
    static(IMAGE, 2, pooling='mean')
