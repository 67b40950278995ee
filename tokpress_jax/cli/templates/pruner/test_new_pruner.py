"""The pruner keeps what pruners promise, and equals a slow NumPy version."""

import pathlib

import jax
import numpy as np
import pytest

from tokpress_jax.pruners import find, testing
from tokpress_jax.types import Ratio

# By its path, so that this runs wherever the two files lie.
FILE = pathlib.Path(__file__).with_name('new_pruner.py')
NewPruner = find.find_pruner(FILE)


@pytest.mark.parametrize('budget', [5, Ratio(ratio=0.3)])
def test_it_keeps_what_pruners_promise(budget):
  """Jit equals eager, padding is ignored, a row is what it is alone, ..."""
  testing.check_pruner(NewPruner(budget=budget))


def oracle(keys, count):
  """The slots that one row keeps, slow and obvious: EDIT it with the method.

  Args:
    keys: [A, n, E] of a row's n tokens.
    count: to keep beside slot 0, which is protected.
  """
  x = np.float64(keys).mean(axis=0)
  mean = x.mean(axis=0)
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  far = [1 - cosine(key, mean) for key in x]
  farthest = sorted(range(1, len(x)), key=lambda n: -far[n])
  return [0, *sorted(farthest[:count])]


def test_it_equals_the_oracle():
  """Each of eight rows keeps the tokens that the slow version says."""
  pruner = NewPruner(budget=5)
  tokens, signals = testing.make_inputs(pruner.needs)
  _, reduction = jax.jit(pruner)(tokens, signals)
  keys = np.asarray(signals.keys)  # [B, A, N, E]
  for row, n in enumerate(testing.LENGTHS):
    want = oracle(keys[row, :, :n], 5)
    assert reduction.index[row].tolist() == want, row
