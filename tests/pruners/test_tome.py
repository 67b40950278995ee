"""ToMe against a slow NumPy version, layer upon layer."""

import contextlib
import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from tokpress_jax import pruners
from tokpress_jax.types import Ratio, Signals, Tokens


def make(rows, slots, *, leading=1, seed=0):
  a, b = jax.random.split(jax.random.key(seed))
  features = jax.random.normal(a, (rows, slots, 6))
  keys = jax.random.normal(b, (rows, 3, slots, 5))
  at = jnp.broadcast_to(jnp.arange(slots) < leading, (rows, slots))
  return Tokens.create(features, protected=at), Signals(keys=keys)


def match(keys, row, r, leading):
  metric = np.asarray(keys, np.float64).mean(axis=1)[row]
  return oracles.tome_match(metric, r, protected=range(leading))


@pytest.mark.parametrize(
  ('slots', 'leading', 'r'),
  [(17, 1, 5), (16, 1, 7), (16, 1, 40), (21, 2, 9), (10, 0, 3), (7, 0, 3)],
)
def test_matching_equals_the_oracle(slots, leading, r):
  tokens, signals = make(3, slots, leading=leading)
  pruner = jax.jit(pruners.ToMe(budget=pruners.Remove(tokens=r)))
  out, reduction = pruner(tokens, signals)
  for row in range(3):
    want = match(signals.keys, row, r, leading)
    got = oracles.groups_of(reduction, row)
    assert [sorted(g) for g in got] == [sorted(g) for g in want]
    assert [g[0] for g in got] == [g[0] for g in want]
    assert len(got) == reduction.index.shape[1]
    np.testing.assert_allclose(
      out.features[row],
      oracles.weighted_mean(
        np.asarray(tokens.features[row]), np.ones(slots), want
      ),
      atol=1e-5,
    )


def test_masses_are_carried_over_layers():
  tokens, _ = make(2, 19)
  pruner = jax.jit(pruners.ToMe(budget=pruners.Remove(tokens=5)))
  x = np.asarray(tokens.features, np.float64)
  mass = np.ones(x.shape[:2])
  members = [[[n] for n in range(19)] for _ in range(2)]
  total = pruners.identity(tokens)
  for layer in range(3):
    key = jax.random.key(10 + layer)
    keys = jax.random.normal(key, (2, 3, 19, 5))[:, :, : x.shape[1]]
    tokens, reduction = pruner(tokens, Signals(keys=keys))
    total = pruners.compose(total, reduction)
    groups = [match(keys, row, 5, 1) for row in range(2)]
    x = np.stack(
      [oracles.weighted_mean(x[i], mass[i], groups[i]) for i in range(2)]
    )
    mass = np.stack([[mass[i][g].sum() for g in groups[i]] for i in range(2)])
    members = [
      [[n for j in g for n in members[i][j]] for g in groups[i]]
      for i in range(2)
    ]
  np.testing.assert_allclose(tokens.features, x, atol=1e-5)
  np.testing.assert_array_equal(tokens.mass, mass)
  for row in range(2):  # the composition knows which patches went where
    got = [sorted(g) for g in oracles.groups_of(total, row)]
    assert got == [sorted(m) for m in members[row]]


def test_without_a_class_token_the_official_order_falls_with_similarity():
  tokens, signals = make(1, 12, leading=0)
  pruner = pruners.ToMe(budget=pruners.Remove(tokens=2), order='similarity')
  _, reduction = pruner(tokens, signals)
  unit = np.asarray(signals.keys, np.float64).mean(axis=1)[0]
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
  closest = (unit[::2] @ unit[1::2].T).max(axis=1)
  rest = [2 * i for i in np.argsort(-closest)[2:]]
  assert reduction.index[0].tolist() == [*rest, 1, 3, 5, 7, 9, 11]


def test_protected_tokens_anywhere_take_no_part():
  tokens, signals = make(4, 20)
  protected = jax.random.bernoulli(jax.random.key(5), 0.4, (4, 20))
  tokens = Tokens.create(tokens.features, protected=protected)
  pruner = jax.jit(pruners.ToMe(budget=pruners.Remove(tokens=30)))
  out, reduction = pruner(tokens, signals)
  for row in range(4):
    alone = [g for g in oracles.groups_of(reduction, row) if len(g) == 1]
    fixed = np.flatnonzero(protected[row])
    assert {int(n) for n in fixed} <= {g[0] for g in alone}
    merged = min((20 - len(fixed)) // 2, (20 - tokens.num_protected) // 2)
    assert int(out.valid[row].sum()) == 20 - merged


def test_schedules_of_the_official_code():
  assert pruners.linear_schedule(13, 12) == (13,) * 12
  falling = pruners.linear_schedule(8, 4, inflect=-1)
  assert falling == (16, 10, 5, 0)
  assert pruners.linear_schedule(8, 4, inflect=1) == (0, 5, 10, 16)
  plan = pruners.tome_plan(8, depth=4, inflect=-1)
  assert [site for site, _ in plan] == [
    f'block_{i}.after_attention' for i in range(3)
  ]


def test_a_budget_below_half_is_refused():
  tokens, signals = make(1, 17)
  with pytest.raises(ValueError, match='at most half of 17 tokens, 8'):
    pruners.ToMe(budget=Ratio(ratio=0.25))(tokens, signals)


@pytest.mark.parametrize('budget', [3, Ratio(ratio=0.25, rounding='floor')])
def test_the_smallest_budget_that_is_named_is_that(budget):
  tokens, signals = make(1, 8)
  with pytest.raises(ValueError, match='keep at least 4 of the 7') as error:
    pruners.ToMe(budget=budget)(tokens, signals)
  ratio = float(re.search(r'--keep ([\d.]+)', str(error.value))[1])
  like = budget if isinstance(budget, Ratio) else Ratio(ratio=1)
  for step, fits in ((0, True), (-0.01, False)):
    near = dataclasses.replace(like, ratio=round(ratio + step, 2))
    with contextlib.nullcontext() if fits else pytest.raises(ValueError):
      pruners.ToMe(budget=near)(tokens, signals)


def test_nothing_to_merge_keeps_all():
  tokens, signals = make(1, 2)
  out, _ = pruners.ToMe(budget=pruners.Remove(tokens=3))(tokens, signals)
  np.testing.assert_array_equal(out.features, tokens.features)
