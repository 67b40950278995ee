"""SliME's router: what the official code keeps, in a static capacity."""

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors
from tokpress_jax.types import Signals, Tokens

SLOTS, WORDS = case.SLIME_TOKENS, case.SLIME_WORDS
WIDTH = case.SLIME['width']


def tokens_of(lengths):
  x = np.tile(case.draw('slime_x', SLOTS, WIDTH), (len(lengths), 1, 1))
  valid = np.arange(SLOTS)[None] < np.array(lengths)[:, None]
  x = np.where(valid[..., None], x, 50.0)
  return Tokens.create(jnp.asarray(x), valid=jnp.asarray(valid))


def texts(words):
  x = np.tile(case.draw('slime_text', WORDS, WIDTH), (len(words), 1, 1))
  there = np.arange(WORDS)[None] < np.array(words)[:, None]
  return Signals(text=jnp.asarray(x), text_valid=jnp.asarray(there))


def golden(words, mass):
  with np.load(case.GOLDEN) as file:
    return file[f'slime/{words}/{mass}'].tolist()


def kept(result, row):
  return np.asarray(result.index[row])[np.asarray(result.valid[row])].tolist()


@pytest.mark.parametrize(('words', 'mass'), case.SLIME_CASES)
def test_kept_tokens_are_the_official_ones(words, mass):
  # Beside a row that is padded, and one of another text.
  plan = jax.jit(compressors.SliME(mass=mass).plan)
  result = plan(tokens_of([SLOTS, 9, SLOTS]), texts([words, 2, 3]))
  want = golden(words, mass)
  assert kept(result, 0) == want
  assert kept(result, 2) != want or mass == 1
  assert max(kept(result, 1)) < 9


def test_padding_does_not_change_a_row():
  pruner = compressors.SliME(mass=0.5)
  a = jax.jit(pruner.plan)(tokens_of([9]), texts([4]))
  short = tokens_of([9])
  short = Tokens.create(short.features[:, :9])
  b = jax.jit(pruner.plan)(short, texts([4]))
  assert kept(a, 0) == kept(b, 0)
  assert 0 < len(kept(b, 0)) < 9


def test_capacity_cuts_the_least_alike():
  want = golden(6, 0.5)
  tokens, signals = tokens_of([SLOTS]), texts([6])
  few = compressors.SliME(mass=0.5, budget=4)
  assert len(want) > 4
  result = jax.jit(few.plan)(tokens, signals)
  assert result.index.shape == (1, 4) and result.valid.all()
  share = np.asarray(few.probability(tokens, signals))[0]
  np.testing.assert_allclose(share.sum(), 1, rtol=1e-5)
  best = np.argsort(-share)[:4]
  assert kept(result, 0) == sorted(best) and set(best) <= set(want)


def test_protected_tokens_stay_and_take_no_share():
  tokens = tokens_of([SLOTS])
  protected = jnp.zeros((1, SLOTS), bool).at[0, :2].set(True)
  tokens = tokens.replace(protected=protected, num_protected=2)
  pruner = compressors.SliME(mass=0.5, budget=6)
  out, result = jax.jit(pruner)(tokens, texts([6]))
  assert kept(result, 0)[:2] == [0, 1]
  assert np.asarray(pruner.probability(tokens, texts([6])))[0, :2].sum() == 0
  assert out.features.shape[1] == 8


def test_noise_is_drawn_row_by_row():
  pruner = compressors.SliME(mass=0.5, noise=2.0)
  tokens = tokens_of([SLOTS] * 2)
  keys = jax.random.split(jax.random.key(0), 2)
  signals = texts([6, 6]).replace(rng=keys)
  plan = jax.jit(pruner.plan)
  result = plan(tokens, signals)
  assert kept(result, 0) != kept(result, 1)
  again = plan(tokens, signals.replace(rng=keys[::-1]))
  assert kept(again, 0) == kept(result, 1)
  assert pruner.needs == {'text', 'rng'}


def test_crops_that_are_missing_are_not_kept():
  x = jnp.asarray(case.draw('slime_x', SLOTS, WIDTH)).reshape(6, 4, WIDTH)
  there = jnp.asarray([[True, True, False]] * 2)
  row, _ = pruners.join_crops(Tokens.create(x), crops=3, valid=there)
  plan = jax.jit(compressors.SliME(mass=1.0).plan)
  result = plan(row, texts([6, 6]))
  assert kept(result, 0) == kept(result, 1) == list(range(8))


def test_from_crops_to_what_a_text_keeps():
  # Two images of up to 3 crops, the second has one.
  x = jnp.asarray(case.draw('slime_crops', 6, 36, WIDTH))
  there = jnp.asarray([True, True, True, True, False, False])
  module = compressors.SliMEResampler(side=2, width=WIDTH, heads=2, grid=(6, 6))
  signals, pruner = texts([6, 6]), compressors.SliME(mass=0.6, budget=8)
  variables = jax.jit(module.init)(jax.random.key(0), x)

  @jax.jit
  def run(x):
    few = compressors.as_tokens(
      module.apply(variables, x), grid=(6, 6), new_grid=(2, 2), valid=there
    )
    row, _ = pruners.join_crops(few, crops=3)
    return pruner(row, signals)[0]

  out = run(x)
  assert out.features.shape == (2, 8, WIDTH)
  assert set(np.asarray(out.owner[1]).tolist()) == {0, -1}
  assert 0 < out.valid[1].sum() <= 4
  np.testing.assert_allclose(out.mass[0, 0], 9)
  assert out.source_count.tolist() == [108, 36]
  junk = run(jnp.where(there[:, None, None], x, 7.0))
  np.testing.assert_allclose(out.features, junk.features, atol=1e-6)


def test_what_does_not_fit_is_refused():
  with pytest.raises(UserError, match=r'mass lies in 1e-06 to 1, got 1\.5'):
    compressors.SliME(mass=1.5)
  with pytest.raises(UserError, match=r"'text'.* are needed"):
    compressors.SliME()(tokens_of([SLOTS]))
