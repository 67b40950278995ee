"""What a tower lets pruners behind it read, beside what its blocks compute."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.errors import UserError
from tokpress_jax.types import SPECIAL, Signals, Tap

CONFIG = models.ViTConfig(
  image_size=12, patch=4, width=16, depth=4, heads=2, classes=0
)
IMAGES = np.random.default_rng(0).uniform(-1, 1, (3, 12, 12, 3))
IMAGES = IMAGES.astype(np.float32)
NAMES = (
  'keys',
  'queries',
  'attention_row',
  'attention_logits',
  'attention_column',
  'before',
)


@functools.cache
def tower(class_token=True):
  pool = 'class' if class_token else 'mean'
  config = dataclasses.replace(CONFIG, class_token=class_token, pool=pool)
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), IMAGES)
  # Ten times the initial weights, so that attention prefers something.
  return module.bind(jax.tree.map(lambda x: 10 * x, variables))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(pruners.Pruner):
  """Keeps all tokens, and what it was given as its state."""

  needs: ClassVar = frozenset(NAMES)

  def decide(self, tokens, signals, state):
    kept = pruners.identity(tokens)
    return kept.replace(state={n: signals.get(n) for n in NAMES})


@functools.cache
def probed(layer):
  plan = ((f'block_{layer}.after_attention', Probe()),)
  return tower()(IMAGES, plan=plan).reductions[0].state


AXES = {'keys': 2, 'queries': 2, 'before': 1}
AXES |= dict.fromkeys(('attention_row', 'attention_logits'), 2)
AXES['attention_column'] = 2


@pytest.mark.parametrize('special', ['keep', 'drop'])
def test_signals_and_taps_are_those_of_the_blocks(special):
  taps = {Tap(name, layer) for name in NAMES for layer in (0, -1)}
  needs = frozenset(NAMES) | taps
  observe = functools.partial(tower().observe, needs=needs, special=special)
  tokens, signals = jax.jit(observe)(IMAGES)
  first = 1 if special == 'drop' else 0
  (want,) = tower()(IMAGES, hidden=(-2,)).hidden
  same = functools.partial(np.testing.assert_allclose, atol=1e-4, rtol=1e-5)
  same(tokens.features, want.features[:, first:])
  np.testing.assert_array_equal(tokens.positions, want.positions[:, first:])
  assert tokens.source_slots == 10 - first == tokens.valid.shape[1]
  assert tokens.num_protected == 1 - first == int(tokens.protected[0].sum())
  assert (tokens.kind == SPECIAL).sum() == 3 * (1 - first)
  assert set(signals.taps) == taps
  for name in NAMES:
    cut = lambda x, axis=AXES[name]: jax.lax.slice_in_dim(
      x, first, None, axis=axis
    )
    same(getattr(signals, name), cut(probed(2)[name]), err_msg=name)
    same(signals.taps[Tap(name, 0)], cut(probed(0)[name]))
    same(signals.taps[Tap(name, -1)], cut(probed(3)[name]))
  assert signals.rng is None


def test_logits_are_what_the_softmax_is_of():
  found = probed(1)
  want = jax.nn.softmax(found['attention_logits'], axis=-1)
  np.testing.assert_allclose(found['attention_row'], want, atol=1e-6)
  assert found['attention_row'].max() > 0.3  # of ten: it prefers something


@dataclasses.dataclass(frozen=True, kw_only=True)
class ByTap(pruners.TopK):
  """Keeps what the class token looked at in the second layer."""

  needs: ClassVar = frozenset({Tap('attention_row', 1)})

  def score(self, tokens, signals):
    return signals.get(Tap('attention_row', 1)).mean(axis=1)


def test_taps_follow_what_was_merged_behind_them():
  site = 'block_2.after_attention'
  merge = pruners.ToMe(budget=pruners.Remove(tokens=3))
  plan = (('tower_out', ByTap(budget=3)), (site, merge))
  out = jax.jit(functools.partial(tower(), plan=plan))(IMAGES)
  assert out.sites == (site, 'tower_out')
  first, second = out.reductions
  row = np.asarray(probed(1)['attention_row']).mean(axis=1)
  for b in range(3):
    left = np.asarray(first.index[b])  # 7 of 10 slots, by representative
    score = row[b, left]
    score[left == 0] = np.inf  # the class token stays, beside the budget
    want = sorted(np.argsort(-score)[:4])
    np.testing.assert_array_equal(second.index[b], want)


def test_what_is_not_there_is_named():
  refuse = lambda text: pytest.raises(UserError, match=text)
  with refuse(r'no layer gives \[.*attention_row.*layer=7'):
    tower().observe(IMAGES, needs=frozenset({Tap('attention_row', 7)}))
  with refuse(
    r"no \['rng', 'text'\]; it gives .*'pixels'.*rng=jax\.random\.key"
  ):
    tower().observe(IMAGES, needs=frozenset({'text', 'rng'}))
  for needs in ('keys', [ByTap(budget=3)]):
    with refuse(r'names of signals and Taps, as in pruner\.needs'):
      tower().observe(IMAGES, needs=needs)
  with refuse("got layer='last'"):
    tower().observe(IMAGES, layer='last')
  with refuse(r'layers 0 to 3 \(or -4 to -1\), got layer=4'):
    tower().observe(IMAGES, layer=4)
  bare = tower(class_token=False)
  with refuse(r"no \['attention_row'\]; it gives"):
    bare.observe(IMAGES, needs=frozenset({'attention_row'}))
  with refuse('no layer gives'):
    bare.observe(IMAGES, needs=frozenset({Tap('attention_logits', -1)}))
  tokens, signals = bare.observe(IMAGES, needs=frozenset({'attention_column'}))
  assert (
    signals.attention_column.shape
    == (3, 2, 9)
    == (3, 2, *tokens.valid[0].shape)
  )
  with refuse(r"ByTap needs .*layer=1.*'block_1.after_mlp' gives"):
    tower()(IMAGES, plan=(('block_1.after_mlp', ByTap(budget=3)),))
  with refuse(r'taps of its layers'):
    far = dataclasses.make_dataclass('Far', [], bases=(ByTap,), frozen=True)
    far.needs = frozenset({Tap('keys', 4)})
    tower()(IMAGES, plan=(('tower_out', far(budget=3)),))


def test_a_pruner_asks_for_its_taps():
  with pytest.raises(UserError, match=r'Tap\(.*layer=1\).* are needed'):
    ByTap(budget=3)(tower().observe(IMAGES)[0], Signals())
  wrong = Signals(taps={Tap('attention_row', 1): jnp.ones((3, 2, 4))})
  with pytest.raises(UserError, match=r'layer=1\) must be \[B, A, N\]'):
    ByTap(budget=3)(tower().observe(IMAGES)[0], wrong)
