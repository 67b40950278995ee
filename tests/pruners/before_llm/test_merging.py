"""Merging between a tower and an LLM, beside official outputs (golden file)."""

import functools
import pathlib

import jax.numpy as jnp
import merging_case as case
import numpy as np
import padded_pruners
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio, Signals, Tap, Tokens

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'merging.npz')
close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)


run = padded_pruners.run


def valid_rows(tokens, row=0):
  """Features of a row's valid slots."""
  return np.asarray(tokens.features[row])[np.asarray(tokens.valid[row])]


def sets(rows):
  """Rows in one order, whatever theirs."""
  return np.asarray(rows)[np.lexsort(np.asarray(rows).T)]


def tower(name):
  """Tokens with the class token first, and signals of layers -1 and -2."""
  features, queries, keys = case.tower(name)
  logits = case.logits_of(queries, keys)
  number = features.shape[1]
  tokens = Tokens.create(
    features,
    protected=np.broadcast_to(np.arange(number) == 0, features.shape[:2]),
  )
  given = {
    'attention_logits': logits,
    'attention_row': case.softmax(logits),
    'keys': keys,
  }
  taps = {
    Tap(n, at): jnp.asarray(x) for n, x in given.items() for at in (-1, -2)
  }
  return tokens, Signals(taps=taps)


def one_row(name, class_token=True):
  """Rows for `padded`, as `tower` has them."""
  shape = vars(case)[name]

  def make(i, size):
    rng = np.random.default_rng((9, i))
    draw = lambda *s: rng.normal(size=s).astype(np.float32)
    logits = 2 * draw(shape['heads'], size)
    given = {
      'attention_logits': logits,
      'attention_row': case.softmax(logits),
      'keys': draw(shape['heads'], size, shape['head']),
    }
    taps = {Tap(n, at): x for n, x in given.items() for at in (-1, -2)}
    protected = (np.arange(size) == 0) & class_token
    return {'features': draw(size, 5), 'protected': protected}, taps

  return make


def test_visionzip_equals_the_official_code():
  pruner = before_llm.VisionZip(
    budget=case.DOMINANT + case.CONTEXTUAL, contextual=case.CONTEXTUAL
  )
  tokens, signals = tower('VISIONZIP')
  got, reduction = run(pruner, tokens, signals)
  close(got.features, GOLDEN['visionzip'])
  # Positions are counted, and every token went somewhere.
  np.testing.assert_array_equal(got.positions[0, :, 0], np.arange(18))
  np.testing.assert_array_equal(got.mass.sum(axis=1), [42, 42])
  assert (reduction.assign.target >= 0).all()
  assert got.protected[:, 0].all() and not got.protected[:, 1:].any()


def test_visionzip_adds_target_and_mean_where_angelslim_averages():
  features, queries, keys = case.tower('VISIONZIP')
  # AngelSlim's softmax is over patches alone.
  row = case.softmax(case.logits_of(queries, keys)[:, :, 1:])
  taps = {Tap('attention_row', -2): row, Tap('keys', -2): keys[:, :, 1:]}
  signals = Signals(taps={k: jnp.asarray(v) for k, v in taps.items()})
  tokens = Tokens.create(features[:, 1:])
  part = Ratio(ratio=10 / 64, rounding='round')
  for ratio in case.RATIOS:
    budget = Ratio(ratio=1 - ratio, rounding='round')
    make = functools.partial(
      before_llm.VisionZip, budget=budget, contextual=part
    )
    got, reduction = run(make(merge='mean'), tokens, signals)
    want = GOLDEN[f'visionzip_mean_{ratio}']
    for i in range(2):  # theirs lie in raster order
      close(got.features[i][np.argsort(reduction.index[i])], want[i])
    official, _ = run(make(), tokens, signals)
    merged = np.asarray(got.mass > 1)
    assert merged.any(axis=1).all()
    same = np.abs(np.asarray(official.features - got.features)).max(axis=-1)
    assert (same[merged] > 0.1).all() and (same[~merged] == 0).all()


def test_prumerge_equals_the_official_code():
  tokens, signals = tower('PRUMERGE')
  # More slots than are needed, and exactly as many as the second row needs.
  for budget in (151, 107):
    got, _ = run(before_llm.PruMerge(budget=budget), tokens, signals)
    for i in range(2):
      rows = valid_rows(got, i)
      assert got.protected[i, 0] and not got.protected[i, 1:].any()
      close(rows[1:], GOLDEN[f'prumerge_{i}'])
  fewer, _ = run(before_llm.PruMerge(budget=61), tokens, signals)
  for i in range(2):  # the highest stay, and one more takes the others
    close(fewer.features[i, 1:61], GOLDEN[f'prumerge_{i}'][:60])
    assert fewer.valid[i].all() and fewer.valid.shape[1] == 62
  one, _ = run(before_llm.PruMerge(budget=1), tokens, signals)
  assert one.valid.all() and one.valid.shape[1] == 2  # class and last token


@pytest.mark.parametrize('number', case.PLUS)
def test_prumerge_plus_equals_the_official_code(number):
  tokens, signals = tower('PRUMERGE')
  budget, step = case.PLUS[number]
  pruner = before_llm.PruMergePlus(budget=budget, step=step)
  got, _ = run(pruner, tokens, signals)
  for i in range(2):
    close(valid_rows(got, i)[1:], GOLDEN[f'prumerge_plus_{number}_{i}'])


def test_the_softmax_of_prumerge_counts_the_class_token():
  tokens, signals = tower('PRUMERGE')
  logits = Tap('attention_logits', -1)
  taps = {**signals.taps, logits: signals.taps[logits].at[:, :, 0].set(6.0)}
  pruner = before_llm.PruMerge(budget=151)
  full, _ = run(pruner, tokens, Signals(taps=taps))
  taps = {t: x[:, :, 1:] for t, x in taps.items()}
  patches = Tokens.create(tokens.features[:, 1:])
  bare, _ = run(pruner, patches, Signals(taps=taps))
  # The same tokens, and smaller weights: those of the last one tell.
  share = valid_rows(full)[-1] / valid_rows(bare)[-1]
  total = np.exp(np.asarray(taps[logits])[0].sum(axis=0) / 2**0.5).sum()
  close(share, total / (total + np.exp(12 / 2**0.5)), rtol=1e-4)
  assert share.max() < 0.97


METHODS = {
  'visionzip': (before_llm.VisionZip(budget=9, contextual=3), 'VISIONZIP'),
  'visionzip-mean': (
    before_llm.VisionZip(
      budget=Ratio(ratio=0.5), contextual=Ratio(ratio=0.4), merge='mean'
    ),
    'VISIONZIP',
  ),
  'prumerge': (
    before_llm.PruMerge(budget=Ratio(ratio=0.5), neighbours=3),
    'PRUMERGE',
  ),
  'prumerge-plus': (
    before_llm.PruMergePlus(budget=10, step=4, neighbours=3),
    'PRUMERGE',
  ),
}


@pytest.mark.parametrize('name', METHODS)
def test_padded_rows_equal_single_ones(name):
  pruner, case_name = METHODS[name]
  padded_pruners.check(pruner, one_row(case_name), (24, 13, 24, 13))


def test_aim_equals_the_official_code():
  for number, parts in case.AIM.items():
    pruner = before_llm.AIM(budget=Ratio(ratio=1 / parts[-1]))
    x = case.draw(80, 2, number, 6)
    got, reduction = run(pruner, Tokens.create(x), Signals())
    close(got.features, GOLDEN[f'aim_{number}'])
    np.testing.assert_allclose(got.mass.sum(axis=1), number, rtol=1e-6)
    np.testing.assert_allclose(got.mass, np.round(got.mass), atol=1e-5)
    # A mean of means is not the mean of all.
    hit = np.asarray(reduction.assign.target)[..., 0]
    whole = [x[0][hit[0] == k].mean(axis=0) for k in range(hit.max() + 1)]
    assert np.abs(np.stack(whole) - got.features[0]).max() > 0.05


def test_aim_on_padded_rows():
  make = lambda i, size: (
    {
      'features': case.draw(81 + i, size, 6),
      'protected': np.arange(size) == 0,
    },
    {},
  )
  padded_pruners.check(before_llm.AIM(), make, (25, 12, 25, 9))
  padded_pruners.check(before_llm.AIM(budget=Ratio(ratio=0.125)), make, (25, 3))


def test_what_does_not_fit_is_said():
  refuse = lambda text: pytest.raises(UserError, match=text)
  with refuse(r'1/2, 1/4, 1/8.*got Ratio\(ratio=0.3'):
    before_llm.AIM(budget=Ratio(ratio=0.3))
  with refuse('got 49'):
    before_llm.AIM(budget=49)
  with refuse('at least 1 token, got contextual=0'):
    before_llm.VisionZip(contextual=0)
  with refuse("unknown merge 'sum'; try one of 'target_mean', 'mean'"):
    before_llm.VisionZip(merge='sum')
  with refuse('step is at least 1, got 0'):
    before_llm.PruMergePlus(step=0)
  with refuse(r'attention_logits.*are needed'):
    before_llm.PruMerge()(tower('PRUMERGE')[0], Signals())
