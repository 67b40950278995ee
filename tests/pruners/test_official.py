"""Mergers and methods equal what the official codes give (golden file)."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pruners_case as case
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import mergers
from tokpress_jax.pruners.inside_vit import learned_rates, pitome
from tokpress_jax.types import Signals, Tokens

GOLDEN = np.load(
  pathlib.Path(__file__).parent.parent / 'golden' / 'pruners.npz'
)


def make(leading=1):
  at = jnp.broadcast_to(jnp.arange(17) < leading, (2, 17))
  tokens = Tokens.create(case.features(), protected=at)
  return tokens.replace(mass=jnp.asarray(case.mass()))


def moved(tokens, reduction, mode='mass'):
  out = pruners.reduce_tokens(tokens, reduction, mode=mode)
  assert bool(out.valid.all())
  return np.concatenate([out.features, out.mass[..., None]], axis=-1)


def by_row(x):
  """Rows in an order of their own, to compare sets."""
  return np.stack([row[np.lexsort(row.T)] for row in np.asarray(x)])


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize(
  ('name', 'leading', 'order'),
  [
    ('class', 1, 'position'),
    ('distill', 2, 'position'),
    ('none', 0, 'similarity'),
  ],
)
def test_bipartite(name, leading, order):
  tokens = make(leading)
  run = functools.partial(
    mergers.bipartite, count=jnp.array([5, 5]), num_merged=5, order=order
  )
  reduction = jax.jit(run)(case.metric(), tokens)
  close(moved(tokens, reduction), GOLDEN[f'tome_{name}'])
  if name == 'class':
    y = pruners.apply(reduction, tokens.features, mode='mean')
    close(pruners.unmerge(reduction, y), GOLDEN['tome_unmerged'])


def test_every_kth():
  tokens = make(0)
  reduction = pruners.kth_bipartite(case.metric(), tokens, k=3)
  close(moved(tokens, reduction), GOLDEN['tome_kth'])


def test_random(monkeypatch):
  # The official code sorts its numbers upwards, and keeps the drawn order.
  drawn = -jnp.asarray(case.draw(9, 2, 17))
  monkeypatch.setattr(
    mergers.random_bipartite.__globals__['scores'], 'random', lambda *_: drawn
  )
  tokens = make(0)
  reduction = pruners.random_bipartite(
    case.metric(), tokens, rng=None, count=jnp.array([10, 10]), num_merged=10
  )
  want = by_row(GOLDEN['tome_random'])
  close(by_row(moved(tokens, reduction)), want)


@pytest.mark.parametrize('partition', ['energy', 'all'])
@pytest.mark.parametrize(('ratio', 'merged'), [(0.7, 4), (0.5, 8)])
def test_pitome(partition, ratio, merged):
  tokens = make()
  run = functools.partial(
    pitome.energy_bipartite,
    count=jnp.array([merged, merged]),
    num_merged=merged,
    margin=0.4,
    partition=partition,
  )
  reduction = jax.jit(run)(case.metric(), tokens)
  close(moved(tokens, reduction), GOLDEN[f'pitome_{partition}_{ratio}'])
  plan = pruners.pitome_plan(ratio, depth=3)
  assert [p.partition for _, p in plan] == ['all', 'all', 'energy']
  assert [p.margin for _, p in plan] == [0.75, 0.5, 0.25]
  signals = Signals(keys=case.metric()[:, None])
  assert plan[0][1].plan(tokens, signals).index.shape[1] == 17 - merged


def test_diffrate():
  tokens = make()
  left, kept = case.DIFFRATE['prune'], case.DIFFRATE['merge']
  ((site, pruner),) = pruners.diffrate_plan([left], [kept], tokens=17)
  assert site == 'block_0.after_attention'
  signals = Signals(attention_row=case.attention())
  reduction = pruner.plan(tokens, signals)
  close(moved(tokens, reduction, mode='mean'), GOLDEN['diffrate'])


def learned(logits):
  state = learned_rates.Masked(
    features=jnp.asarray(case.features()),
    mass=jnp.asarray(case.mass()),
    mask=jnp.broadcast_to(case.mask(), (2, 17)),
  )
  choices = learned_rates.candidates(16)
  out = learned_rates.masked_step(
    state,
    case.masked_attention().mean(axis=1),
    prune_logits=logits[0],
    merge_logits=logits[1],
    choices=choices,
  )
  kept = learned_rates.expected_kept(logits, choices) + 1
  weight = jnp.asarray(case.draw(10, 2, 17))
  loss = jnp.sum(out.mask * weight) + jnp.sum(kept * jnp.array([0.3, -0.2]))
  return loss, (out, kept)


def test_diffrate_learning():
  run = jax.jit(jax.grad(learned, has_aux=True))
  gradient, (out, kept) = run(jnp.asarray(case.logits()))
  np.testing.assert_array_equal(kept, GOLDEN['diffrate_kept'])
  want = GOLDEN['diffrate_masked']
  got = np.concatenate(
    [out.features, out.mass[..., None], out.mask[..., None]], axis=-1
  )
  close(got, want)
  close(gradient, GOLDEN['diffrate_gradient'])


def test_diffrate_attention_and_probabilities():
  mask = jnp.broadcast_to(case.mask(), (2, 17))
  got = learned_rates.policy_softmax(case.draw(11, 2, 3, 17, 17), mask)
  close(got[:, 0], GOLDEN['diffrate_attention'])
  choices = learned_rates.candidates(12, granularity=3)
  even = jnp.zeros(4)
  kept = learned_rates.expected_kept(even, choices) + 1
  assert float(kept) == GOLDEN['diffrate_even']
  got = learned_rates.rank_probability(even, choices, tokens=12)
  close(got, GOLDEN['diffrate_even_probability'][1:])


@pytest.mark.parametrize('neighbours', [3, 5])
def test_dpc_knn(neighbours):
  tokens = make(0)
  run = functools.partial(
    pruners.dpc_knn,
    count=jnp.array([6, 6]),
    capacity=6,
    neighbours=neighbours,
    order='score',
  )
  reduction = jax.jit(run)(tokens.features, tokens)
  np.testing.assert_array_equal(
    reduction.assign.target, GOLDEN[f'dpc_{neighbours}']
  )
  y = pruners.apply(reduction, tokens.features, mode='mean')
  if neighbours == 5:
    close(y, np.stack([GOLDEN['ppe_features_0'], GOLDEN['ppe_features_1']]))
