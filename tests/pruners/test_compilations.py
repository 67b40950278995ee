"""One compilation for each method and budget, whatever the rows' lengths."""

import collections
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from general import METHODS

from tokpress_jax import pruners, registry
from tokpress_jax.pruners import budgets, random_inputs
from tokpress_jax.types import Ratio, Tokens

ROWS, SLOTS, WIDTH = 3, 12, random_inputs.WIDTH
# Tokens before an earlier pruner, for budgets of the original number.
SOURCE = 16
# Unlike ones, the class token among them: whole, ragged, almost empty, equal.
PADDINGS = ((12, 12, 12), (12, 5, 9), (2, 3, 1), (7, 7, 7))
BUDGETS = {
  'int': 7,
  'current': Ratio(ratio=0.7),
  'original': Ratio(ratio=0.5, of='original', rounding='ceil'),
  'remove': pruners.Remove(tokens=4),
  'bytes': pruners.Bytes(limit=210, per_token=32),
}
# Every k-th token is a ratio of the tokens at hand and nothing else.
OF_RATIO = {f'1/{k}': Ratio(ratio=1 / k) for k in (2, 3, 4, 5)}
# What a method takes beside a budget.
MORE = {'diffrate': {'left': Ratio(ratio=0.9)}}
# Those that merge at most half of a row.
HALVES = ('tome', 'pitome')
COMBINATIONS = [
  (name, budget)
  for name in METHODS
  for budget in (OF_RATIO if name == 'tome_kth' else BUDGETS)
]
TRACES: collections.Counter = collections.Counter()


def build(name, budget):
  budget = {**BUDGETS, **OF_RATIO}[budget]
  return registry.resolve(name)(budget=budget, **MORE.get(name, {}))


# What any of them reads.
NEEDS = frozenset().union(*(build(*pair).needs for pair in COMBINATIONS))


@functools.partial(jax.jit, static_argnums=0)
def run(pruner, tokens, signals):
  TRACES[pruner] += 1
  return pruner(tokens, signals)


def make(lengths):
  rng = np.random.default_rng(lengths)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  slots = np.arange(SLOTS)[None]
  valid = slots < np.array(lengths)[:, None]
  tokens = Tokens.create(
    draw(ROWS, SLOTS, WIDTH),
    valid=jnp.asarray(valid),
    protected=jnp.asarray(valid & (slots == 0)),
    num_protected=1,
  )
  tokens = tokens.replace(
    source_slots=SOURCE, source_count=tokens.source_count + SOURCE - SLOTS
  )
  return tokens, random_inputs.make_inputs(
    NEEDS, lengths=(SLOTS,) * ROWS, slots=SLOTS, seed=sum(lengths)
  )[1]


def expected(name, budget, free, source):
  """Unprotected tokens that a row of `free` keeps, by hand."""
  value = {**BUDGETS, **OF_RATIO}[budget]
  if name == 'tome_kth':
    return min(max(free // int(budget[2:]), 1), free)
  kept = {
    'int': lambda: value,
    'current': lambda: max(round(0.7 * free), 1),
    'original': lambda: max(math.ceil(0.5 * source), 1),
    'remove': lambda: max(free - 4, 1),
    'bytes': lambda: 210 // 32,
  }[budget]()
  if name in HALVES:
    kept = max(kept, free - free // 2)
  return min(kept, free)


def test_at_least_forty_combinations_of_all_registered_pruners():
  assert len({build(*pair) for pair in COMBINATIONS}) == len(COMBINATIONS)
  assert len(COMBINATIONS) >= 40
  kinds = {type(b) for b in BUDGETS.values()}
  assert kinds == set(budgets.Budget.__args__)


@pytest.mark.parametrize(('name', 'budget'), COMBINATIONS)
def test_one_compilation(name, budget):
  compiled = run._cache_size()
  shapes = set()
  for lengths in PADDINGS:
    # A pruner made anew is the same static argument.
    out, reduction = run(build(name, budget), *make(lengths))
    shapes.add(reduction.index.shape)
    want = [
      1 + expected(name, budget, n - 1, n - 1 + SOURCE - SLOTS) for n in lengths
    ]
    assert out.valid.sum(axis=1).tolist() == want
  assert TRACES[build(name, budget)] == 1
  assert run._cache_size() == compiled + 1
  full = expected(name, budget, SLOTS - 1, SOURCE - 1)
  assert shapes == {(ROWS, 1 + full)}
