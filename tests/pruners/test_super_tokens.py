"""Super token attention against the official code.

`tests/golden/make_super_tokens.py` says what made the golden file.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import super_tokens_case as case
from redraw import redraw

from tokpress_jax import pruners
from tokpress_jax.pruners.inside_vit import super_tokens

SHAPES = {
  'stoken_refine.qkv.weight': (3 * case.WIDTH, case.WIDTH, 1, 1),
  'stoken_refine.proj.weight': (case.WIDTH, case.WIDTH, 1, 1),
  'stoken_refine.proj.bias': (case.WIDTH,),
}


def variables():
  """The same weights: heads, then queries, keys and values of each."""
  drawn = redraw(SHAPES, rules=case.RULES)
  qkv, out, bias = (drawn[k] for k in SHAPES)
  each = case.WIDTH // case.HEADS
  kernel = qkv[..., 0, 0].T.reshape(case.WIDTH, case.HEADS, 3, each)
  return {
    'params': {
      'qkv': {'kernel': kernel},
      'out': {'kernel': out[..., 0, 0].T, 'bias': bias},
    }
  }


def module(name):
  _, size, iterations = case.CASES[name]
  return pruners.SuperTokenAttention(
    heads=case.HEADS, size=size, iterations=iterations
  )


@pytest.mark.parametrize('name', case.CASES)
def test_output_and_gradient_are_the_official_ones(name):
  x, along = (jnp.moveaxis(a, 1, -1) for a in case.inputs(name))

  @jax.jit
  def run(variables, x):
    out = module(name).apply(variables, x)
    return jnp.sum(out * along), out

  (_, out), gradient = jax.value_and_grad(run, argnums=1, has_aux=True)(
    variables(), x
  )
  with np.load(case.GOLDEN) as golden:
    for got, key in ((out, 'out'), (gradient, 'gradient')):
      want = np.moveaxis(golden[f'{name}/{key}'], 1, -1)
      assert np.abs(got - want).max() < 1e-5 * want.std()


def test_gathering_is_the_transpose_of_looking_around():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x, y = draw(1, 3, 4, 2), draw(1, 3, 4, 9, 2)
  around, back = super_tokens.neighbours(x), super_tokens.gather_back(y)
  np.testing.assert_allclose(jnp.sum(around * y), jnp.sum(x * back), rtol=1e-5)


@pytest.mark.parametrize('name', ['even', 'plain'])
def test_gradients_reach_every_parameter(name):
  x = jnp.moveaxis(case.inputs(name)[0], 1, -1)
  run = lambda v: jnp.sum(module(name).apply(v, x) ** 2)
  found = jax.jit(jax.grad(run))(variables())
  assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(found))


def test_a_row_does_not_depend_on_its_batch():
  x = jnp.moveaxis(case.inputs('filled')[0], 1, -1)
  run = jax.jit(module('filled').apply)
  np.testing.assert_allclose(
    run(variables(), x)[1:], run(variables(), x[1:]), atol=1e-5
  )


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match='3 heads must divide 8'):
    pruners.SuperTokenAttention(heads=3).init(
      jax.random.key(0), jnp.zeros((1, 8, 8, 8))
    )
