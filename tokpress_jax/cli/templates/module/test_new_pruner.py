"""The pruner keeps what pruners promise, learns, and equals a slow version."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.io.python_file import import_file
from tokpress_jax.pruners import testing

# By its path, so that this runs wherever the two files lie.
FILE = pathlib.Path(__file__).with_name('new_pruner.py')
own = import_file(FILE, name='new_pruner')


def test_it_keeps_what_pruners_promise():
  """Jit equals eager, padding is ignored, a row is what it is alone, ..."""
  testing.check_pruner(own.NewPruner(budget=5))


def test_every_parameter_learns():
  """Gradients reach the score, though what is kept is a hard choice."""
  module = own.NewPruner(budget=5)
  tokens, signals = testing.make_inputs(module.needs)
  variables = module.init(jax.random.key(0), tokens, signals)

  @jax.jit
  @jax.grad
  def gradient(variables):
    out, _ = module.apply(variables, tokens, signals)
    return jnp.sum(out.features**2)

  kernel = gradient(variables)['params']['score']['kernel']
  assert np.abs(kernel).min() > 0  # A bias of all scores moves no top-k.


def oracle(x, params, count):
  """The slots that one row keeps, slow and obvious: EDIT it with the method.

  Args:
    x: [n, D], features of a row's n tokens.
    params: of the module.
    count: to keep beside slot 0, which is protected.
  """
  score = np.float64(x) @ np.asarray(params['score']['kernel'])[:, 0]
  best = sorted(range(1, len(x)), key=lambda n: -score[n])
  return [0, *sorted(best[:count])]


def test_it_equals_the_oracle():
  """Each of eight rows keeps the tokens that the slow version says."""
  module = own.NewPruner(budget=5)
  tokens, signals = testing.make_inputs(module.needs)
  variables = module.init(jax.random.key(0), tokens, signals)
  out, reduction = jax.jit(module.apply)(variables, tokens, signals)
  for row, n in enumerate(testing.LENGTHS):
    x = np.asarray(tokens.features[row, :n])
    want = oracle(x, variables['params'], 5)
    assert reduction.index[row].tolist() == want, row
    np.testing.assert_allclose(out.features[row], x[want], atol=1e-6)
