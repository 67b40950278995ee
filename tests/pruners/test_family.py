"""What every pruner promises; a new one joins by a row in PRUNERS."""

import functools

import jax
import jax.numpy as jnp
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import before_llm, random_inputs, testing
from tokpress_jax.types import Ratio

PRUNERS = {
  'top-attention': pruners.TopAttention(budget=5),
  'top-norm': pruners.TopNorm(budget=Ratio(ratio=0.3), order='score'),
  'random': pruners.Random(budget=Ratio(ratio=0.4, rounding='ceil')),
  'stride': pruners.Stride(budget=pruners.Bytes(limit=56, per_token=8)),
  'tome': pruners.ToMe(budget=pruners.Remove(tokens=4), positions='mean'),
  'tome-random': pruners.RandomToMe(budget=7),
  'tome-kth': pruners.EveryKth(budget=Ratio(ratio=1 / 3)),
  'pitome': pruners.PiToMe(budget=pruners.Remove(tokens=4)),
  'pitome-all': pruners.PiToMe(budget=Ratio(ratio=0.7), partition='all'),
  'diffrate': pruners.DiffRate(budget=5, left=Ratio(ratio=0.5)),
  'token-transforming': pruners.TokenTransforming(budget=6),
  'divprune': before_llm.DivPrune(budget=Ratio(ratio=0.3, rounding='round')),
  'vtc-cls': before_llm.VTCCLS(budget=6, layers=(-4, -2)),
  'hiprune': before_llm.HiPrune(budget=9, share=0.6, width=4),
  'scope': before_llm.SCOPE(budget=6, alpha=2),
  'dart': before_llm.DART(budget=7),
  'dart-keys': before_llm.DART(budget=7, by='keys'),
  'vispruner': before_llm.VisPruner(budget=7),
  'idpruner': before_llm.IDPruner(budget=5, order='score'),
  'todre': before_llm.ToDRE(budget=5),
  'catp': before_llm.CATP(budget=5),
  'aim': before_llm.AIM(budget=Ratio(ratio=0.25)),
  'zoo-prune': before_llm.ZOOPrune(budget=5, project=jnp.tanh, directions=4),
  'visionzip': before_llm.VisionZip(budget=6, contextual=2),
  'visionzip-mean': before_llm.VisionZip(
    budget=Ratio(ratio=0.5), contextual=Ratio(ratio=0.3), merge='mean'
  ),
  'prumerge': before_llm.PruMerge(budget=7, neighbours=3),
  'prumerge-plus': before_llm.PruMergePlus(budget=9, step=5, neighbours=3),
  'recoverable': before_llm.Recoverable(
    budget=9, neighbours=3, outlier_neighbours=(5, 5, 3)
  ),
  'ppe': before_llm.PPE(
    positions=pruners.Members(count=2, axes=1), sections=(4,)
  ),
  'token-corr': before_llm.TokenCorr(similarity=0.3, repeats=2),
}
MERGERS = (  # which drop nothing
  'tome',
  'tome-random',
  'pitome',
  'pitome-all',
  'token-transforming',
  'visionzip',
  'visionzip-mean',
  'ppe',
)
ROWS, HEADS = 8, random_inputs.HEADS
SLOTS, WIDTH = random_inputs.SLOTS, random_inputs.WIDTH


@functools.cache
def checks(name):
  """The checks of a method, which share its one jitted program."""
  return testing.Checks(PRUNERS[name], keeps_mass=name in MERGERS)


OWN_NUMBER = ('aim',)  # what halves leave is not rounded as a ratio is
PROMISES = [
  (name, check)
  for name in PRUNERS
  for check in testing.CHECKS
  if check != 'budget_is_respected' or name not in OWN_NUMBER
]


@pytest.mark.parametrize(('name', 'check'), PROMISES)
def test_promise(name, check):
  getattr(checks(name), check)()


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('keys', (ROWS, HEADS, SLOTS + 1, 4)),
    ('queries', (1, HEADS, SLOTS, 4)),
    ('attention_row', (ROWS, SLOTS)),
    ('attention_column', (ROWS, HEADS, SLOTS - 1)),
    ('before', (ROWS, HEADS, SLOTS, WIDTH)),
    ('rng', (ROWS - 1,)),
    ('rng', ()),
  ],
)
def test_signals_of_other_tokens_are_refused_also_at_trace_time(name, shape):
  tokens, signals = random_inputs.make_inputs(['keys'])
  bad = jax.ShapeDtypeStruct(shape, 'float32')
  signals = signals.replace(**{name: bad})
  with pytest.raises(ValueError, match=rf'{name} must .*{ROWS}') as error:
    jax.eval_shape(PRUNERS['tome'], tokens, signals)
  assert str(shape) in str(error.value)


def test_arrays_are_told_to_be_wrapped():
  tokens, signals = random_inputs.make_inputs(['keys'])
  with pytest.raises(ValueError, match=r'Tokens\.create\(features\)'):
    PRUNERS['top-norm'](tokens.features)
  with pytest.raises(ValueError, match=r'Signals\(keys=keys\)'):
    PRUNERS['tome'](tokens, signals.keys)
