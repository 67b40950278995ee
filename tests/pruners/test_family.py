"""What every pruner promises; a new one joins by a row in `family_rows`."""

import functools

import jax
import pytest
from family_rows import FLAT, MERGERS, PRUNERS

from tokpress_jax import registry
from tokpress_jax.pruners import random_inputs, testing

ROWS, HEADS = 8, random_inputs.HEADS
SLOTS, WIDTH = random_inputs.SLOTS, random_inputs.WIDTH


@functools.cache
def checks(name):
  """The checks of a method, which share its one jitted program."""
  pruner, on = PRUNERS[name]
  return testing.Checks(pruner, keeps_mass=name in MERGERS, on=on)


NOT_PROMISED = {
  ('aim', 'budget_is_respected'): 'what halves leave is not rounded as a ratio',
  ('dycoke', 'budget_is_respected'): 'its ratio is of compared frames only',
}
PROMISES = [
  (name, check)
  for name in PRUNERS
  for check in testing.CHECKS
  if (name, check) not in NOT_PROMISED
]


def test_every_registered_pruner_has_a_row():
  found = {type(pruner) for pruner, _ in PRUNERS.values()}
  missing = [
    entry.name
    for entry in registry.list_pruners()
    if registry.resolve(entry.name) not in found
  ]
  assert not missing, f'add a row to PRUNERS for {missing}'


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
    jax.eval_shape(FLAT['tome'], tokens, signals)
  assert str(shape) in str(error.value)


def test_arrays_are_told_to_be_wrapped():
  tokens, signals = random_inputs.make_inputs(['keys'])
  with pytest.raises(ValueError, match=r'Tokens\.create\(features\)'):
    FLAT['top-norm'](tokens.features)
  with pytest.raises(ValueError, match=r'Signals\(keys=keys\)'):
    FLAT['tome'](tokens, signals.keys)
