"""Recoverable Compression, MustDrop, SeGPruner and TokenCorr."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import merging_case as case
import numpy as np
import padded_pruners
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio, Signals, Tap, Tokens

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'merging.npz')
close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)
run = padded_pruners.run


def valid_rows(tokens, row=0):
  return np.asarray(tokens.features[row])[np.asarray(tokens.valid[row])]


def kept_of_golden(i, features):
  """What the official code kept of sample i as it was."""
  found = (GOLDEN[f'recoverable_{i}'][:, None] == features[None]).all(axis=-1)
  return np.argmax(found, axis=1)[found.any(axis=1)]


@pytest.mark.parametrize('i', [0, 1])
def test_recoverable_equals_the_official_code(i):
  features, queries, keys = (x[i : i + 1] for x in case.tower('RECOVERABLE'))
  kept = kept_of_golden(i, features[0, 1:])
  rest = np.delete(np.arange(case.RECOVERABLE['patches']), kept)
  # The official code takes the keys of what is left from the first patches.
  moved = keys.copy()
  moved[:, :, 1 + rest] = keys[:, :, 1 : 1 + len(rest)]
  number = features.shape[1]
  tokens = Tokens.create(features, protected=np.arange(number)[None] == 0)
  text = np.pad(case.text_scores()[i : i + 1], ((0, 0), (1, 0)))

  def signals(keys):
    logits = jnp.asarray(case.logits_of(queries, keys))
    taps = {Tap('attention_logits', -1): logits, Tap('keys', -1): moved}
    taps = {t: jnp.asarray(x) for t, x in taps.items()}
    return Signals(importance=jnp.asarray(text), taps=taps)

  want = GOLDEN[f'recoverable_{i}']
  assert 8 < len(kept) < len(want) - 1  # centres, and one more
  got, reduction = run(
    before_llm.Recoverable(budget=131), tokens, signals(keys)
  )
  close(valid_rows(got)[1:], want)
  index = np.asarray(reduction.index[0, 1 : 1 + len(kept)])
  np.testing.assert_array_equal(index, 1 + kept)
  # Published is CLIP's width times the share of outliers, not the outliers.
  rest_of = before_llm.Recoverable(budget=131, centres='rest')
  other, _ = run(rest_of, tokens, signals(keys))
  outliers = int(other.valid.sum()) - 2 - len(kept)
  assert len(want) - len(kept) - 1 == 48 * outliers // len(rest) < outliers
  # A capacity that is too small is met: by attention first.
  few, _ = run(before_llm.Recoverable(budget=7), tokens, signals(keys))
  assert few.valid.sum() == 7 and few.valid.shape[1] == 8


def test_without_outliers_nothing_is_merged():
  features = case.draw(1, 1, 12, 4)
  flat = {
    Tap('attention_logits', -1): jnp.zeros((1, 1, 12)),
    Tap('keys', -1): jnp.ones((1, 1, 12, 2)),
  }
  text = jnp.where(jnp.arange(12) == 4, 9.0, jnp.linspace(0, 1, 12))[None]
  signals = Signals(importance=text, taps=flat)
  pruner = before_llm.Recoverable(outlier_neighbours=(5, 5, 3))
  got, _ = run(pruner, Tokens.create(features), signals)
  close(valid_rows(got), features[0, 4:5])


def test_mustdrop_equals_the_official_code():
  x = case.spatial()
  side = case.MUSTDROP
  grid = np.stack(np.divmod(np.arange(side**2), side), axis=-1)
  tokens = Tokens.create(
    x,
    positions=np.concatenate([[[-1, -1]], grid])[None],
    protected=np.arange(1 + side**2)[None] == 0,
  )
  want = GOLDEN['mustdrop'][0]
  order = lambda rows: rows[np.lexsort(rows.T)]
  for budget in (Ratio(ratio=1.0), 20):
    got, _ = run(before_llm.MustDrop(budget=budget), tokens, Signals())
    mass = np.asarray(got.mass[0])[np.asarray(got.valid[0])]
    rows = np.concatenate([valid_rows(got), mass[:, None]], axis=-1)
    close(rows[0], want[0])
    close(order(rows[1:]), order(want[1:]))
    assert sorted(mass)[-2:] == [9, 9] and len(mass) == 21
  # Below that, the next windows are merged, and nothing is dropped.
  for budget, left in ((19, 12), (12, 12), (11, 4), (4, 4)):
    got, _ = run(before_llm.MustDrop(budget=budget), tokens, Signals())
    assert got.valid.sum() == 1 + left and got.mass.sum() == 37


def test_the_key_set_is_rounded_up():
  row = np.exp(case.draw(3, 2, 3, 50))
  free = np.arange(50) < np.array([[50], [26]])
  for share, counts in ((0.08, (4, 3)), (1.0, (50, 26))):
    given = jnp.asarray(row)
    got = before_llm.key_set(given, free=jnp.asarray(free), share=share)
    for i, count in enumerate(counts):
      score = np.where(free[i], row[i].mean(axis=0), -1)
      best = np.sort(np.argsort(-score)[:count])
      np.testing.assert_array_equal(np.flatnonzero(got[i]), best)


def test_segpruner_equals_the_official_code():
  shape = case.SEGPRUNER
  tokens = Tokens.create(
    case.draw(100, 2, shape['patches'], 5),
    positions=case.draw(102, 2, shape['patches'], 3),
  )
  column = np.exp(case.draw(101, 2, 3, shape['patches']))
  signals = Signals(taps={Tap('attention_column', -1): jnp.asarray(column)})
  for share, mix in case.MIXES:
    pruner = before_llm.SeGPruner(budget=shape['tokens'], share=share, mix=mix)
    _, reduction = run(pruner, tokens, signals)
    for i in range(2):
      np.testing.assert_array_equal(
        reduction.index[i], np.flatnonzero(GOLDEN[f'segpruner_{share}'][i])
      )


def token_corr_oracle(keys, local, glob, owner, *, similarity, repeats):
  """Slots that stay, crop after crop."""
  unit = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
  kept = []
  for crop in np.unique(owner):
    inside = list(np.flatnonzero(owner == crop))
    single = [
      i
      for i in inside
      if sum(unit[i] @ unit[j] > similarity for j in inside if j != i) < repeats
    ]
    number = max(len(single), 1)
    half = (number + 1) // 2
    first = sorted(inside, key=lambda i: -local[i])[:half]
    rest = [i for i in inside if i not in first]
    kept += first + sorted(rest, key=lambda i: -glob[i])[: number - half]
  return sorted(int(i) for i in kept)


def token_corr_row(i, size):
  """One image of two crops, the second of which repeats itself."""
  rng = np.random.default_rng((8, i))
  draw = lambda *s: rng.normal(size=s).astype(np.float32)
  owner = (np.arange(size) >= size // 2).astype(np.int32)
  keys = draw(2, size, 3)
  keys[:, owner == 1] = keys[:, -1:] + (0.5 + 0.4 * i) * keys[:, owner == 1]
  taps = {
    Tap('keys', -2): keys,
    Tap('attention_row', -2): np.exp(draw(2, size)),
    Tap('attention_row', -8): np.exp(draw(2, size)),
  }
  at = np.arange(size)[:, None]
  return {'features': draw(size, 4), 'owner': owner, 'positions': at}, taps


def test_token_corr_equals_its_description():
  pruner = before_llm.TokenCorr(budget=Ratio(ratio=1.0), similarity=0.7)
  numbers = set()
  for i in range(4):
    fields, taps = token_corr_row(i, 24)
    tokens = Tokens.create(
      fields['features'][None], owner=fields['owner'][None]
    )
    signals = Signals(taps={t: jnp.asarray(x)[None] for t, x in taps.items()})
    got, reduction = run(pruner, tokens, signals)
    rows = [taps[Tap('attention_row', n)].mean(axis=0) for n in (-8, -2)]
    joined = np.moveaxis(taps[Tap('keys', -2)], 0, 1).reshape(24, -1)
    want = token_corr_oracle(
      joined, *rows, fields['owner'], similarity=0.7, repeats=4
    )
    found = np.asarray(reduction.index[0])[np.asarray(got.valid[0])]
    assert found.tolist() == want
    numbers.add(len(want))
    first = sum(n < 12 for n in want)
    assert first > len(want) - first  # the crop that repeats itself keeps less
  assert len(numbers) > 1


def space(i, size):
  fields, _ = token_corr_row(i, size)
  rng = np.random.default_rng((6, i))
  fields = {
    'features': fields['features'],
    'positions': rng.normal(size=(size, 3)).astype(np.float32),
  }
  column = np.exp(rng.normal(size=(2, size)).astype(np.float32))
  return fields, {Tap('attention_column', -1): column}


def windows(i, size):
  fields, _ = token_corr_row(i, size)
  at = np.arange(size)
  grid = np.stack([at // 6, at % 6], axis=-1)
  return {'features': fields['features'], 'positions': grid}, {}


def words(i, size):
  rng = np.random.default_rng((5, i))
  draw = lambda *s: rng.normal(size=s).astype(np.float32)
  taps = {
    Tap('attention_logits', -1): 3 * draw(2, size),
    Tap('keys', -1): draw(2, size, 3),
    'importance': draw(size) ** 3,
  }
  protected = np.arange(size) == 0
  return {'features': draw(size, 4), 'protected': protected}, taps


METHODS = {
  'recoverable': (
    before_llm.Recoverable(
      budget=Ratio(ratio=0.5), neighbours=4, outlier_neighbours=(5, 5, 3)
    ),
    words,
  ),
  'mustdrop': (
    before_llm.MustDrop(budget=Ratio(ratio=0.5), window=2),
    windows,
  ),
  'segpruner': (before_llm.SeGPruner(budget=Ratio(ratio=0.3)), space),
  'token-corr': (
    before_llm.TokenCorr(budget=Ratio(ratio=0.5), similarity=0.7),
    token_corr_row,
  ),
}


@pytest.mark.parametrize('name', METHODS)
def test_padded_rows_equal_single_ones(name):
  padded_pruners.check(*METHODS[name], (24, 18, 24, 18))


def test_what_does_not_fit_is_said():
  refuse = lambda text: pytest.raises(UserError, match=text)
  flat = Tokens.create(case.draw(1, 1, 12, 4))
  column = Signals(taps={Tap('attention_column', -1): jnp.ones((1, 1, 12))})
  with refuse(r'positions \[B, N, 3\], got \(1, 12, 1\)'):
    before_llm.SeGPruner()(flat, column)
  with refuse('mix lies in 0 to 1, got 2'):
    before_llm.SeGPruner(mix=2)
  with refuse('window is at least 2, got 1'):
    before_llm.MustDrop(window=1)
  with refuse('repeats is at least 1, got 0'):
    before_llm.TokenCorr(repeats=0)
  with refuse("unknown centres 'all'; try one of 'width', 'rest'"):
    before_llm.Recoverable(centres='all')
  with refuse('importance.*are needed'):
    before_llm.Recoverable()(flat, Signals())


def test_a_text_is_ignored_by_methods_that_take_none():
  fields, taps = space(0, 12)
  tokens = Tokens.create(
    fields['features'][None], positions=fields['positions'][None]
  )
  taps = {t: jnp.asarray(x)[None] for t, x in taps.items()}
  words = {'text': jnp.ones((1, 2, 4)), 'text_valid': jnp.ones((1, 2), bool)}
  pruner = before_llm.SeGPruner(budget=5)
  got, _ = run(pruner, tokens, Signals(taps=taps, **words))
  want, _ = run(pruner, tokens, Signals(taps=taps))
  np.testing.assert_array_equal(got.features, want.features)


TOWER = models.ViTConfig(
  image_size=24, patch=4, width=16, depth=4, heads=2, classes=0
)


def test_a_tower_gives_what_they_need():
  """A whole ViT, from images to what a language model would read."""
  images = np.random.default_rng(0).uniform(-1, 1, (4, 24, 24, 3))
  images = images.astype(np.float32)
  module = TOWER.build()
  variables = jax.jit(module.init)(jax.random.key(0), images)
  bound = module.bind(jax.tree.map(lambda x: 10 * x, variables))
  keep = (
    (before_llm.VisionZip(budget=9, contextual=3), 10),
    (before_llm.PruMerge(budget=8), 9),
    (before_llm.PruMergePlus(budget=12, step=5), 13),
    (before_llm.AIM(), 10),
  )
  drop = (
    (before_llm.HiRED(), 28),
    (before_llm.GlobalCom2(), 36),
    (before_llm.TokenCorr(local=0), 72),
  )

  @jax.jit
  def run_all(images):
    needs = frozenset().union(*(p.needs for p, _ in (*keep, *drop)))
    tokens, signals = bound.observe(images, needs=needs, special='keep')
    out = [pruner(tokens, signals)[0] for pruner, _ in keep]
    tokens, signals = bound.observe(images, needs=needs)
    tokens, signals = pruners.join_crops(tokens, signals, crops=4)
    layout = jnp.array([[1, 3]])
    tokens = pruners.place_crops(tokens, layout=layout)
    return out, [pruner(tokens, signals)[0] for pruner, _ in drop]

  for methods, outputs in zip((keep, drop), run_all(images), strict=True):
    for (pruner, slots), got in zip(methods, outputs, strict=True):
      assert got.valid.shape[1] == slots, pruner
      assert got.valid.any(axis=1).all()
      assert np.isfinite(np.asarray(got.features)).all()
  site = 'block_0.after_mlp'
  plan = ((site, before_llm.MustDrop(budget=12)),)
  out = jax.jit(functools.partial(bound, plan=plan))(images)
  assert out.tokens.valid.shape == (4, 13)
  np.testing.assert_allclose(out.tokens.mass.sum(axis=1), 37)
