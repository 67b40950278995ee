"""`check_pruner` finds each broken promise, by name."""

import dataclasses
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import (
  before_llm,
  budgets,
  crop_layouts,
  selectors,
  testing,
)
from tokpress_jax.types import Dense, OneHot, Tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Longest(pruners.Pruner):
  """Keeps the longest features, and breaks what `fault` names."""

  fault: Any = ''
  budget: Any = 5

  def score(self, tokens, signals):
    x = jnp.abs(tokens.features).sum(axis=-1)
    if self.fault == 'padding':  # the mean is over padding too
      x = jnp.abs(x - x.mean(axis=1, keepdims=True))
    if self.fault == 'needs':
      x = x + signals.attention_row.mean(axis=1)
    if self.fault == 'jit' and isinstance(x, jax.core.Tracer):
      x = -x
    return x

  def decide(self, tokens, signals, state):
    protected = tokens.protected & (self.fault != 'protected')
    extra = 1 if self.fault == 'budget' else 0
    count = budgets.row_counts(self.budget, tokens) + extra
    capacity = budgets.capacity(self.budget, tokens) + extra
    kept, _ = selectors.top(
      self.score(tokens, signals),
      count=count,
      valid=tokens.valid,
      protected=protected,
    )
    result = selectors.selection(tokens, kept, capacity=capacity)
    if self.fault == 'merged':
      target = jnp.where(tokens.valid, 0, -1)
      return dataclasses.replace(result, assign=OneHot(target, merged=0))
    if self.fault == 'junk':
      matrix = jnp.ones((*result.index.shape, kept.shape[1]))
      return dataclasses.replace(result, assign=Dense(matrix))
    return result

  def __call__(self, tokens, signals=None, state=None):
    out, result = super().__call__(tokens, signals, state)
    if self.fault == 'float32':
      out = out.replace(features=out.features.astype(jnp.float32))
    if self.fault == 'gradient':
      out = out.replace(features=jax.lax.stop_gradient(out.features))
    if self.fault == 'mass':
      out = out.replace(mass=2 * out.mass)
    return out, result

  def plan(self, tokens, signals, state=None):
    if self.fault == 'all':
      return pruners.identity(tokens)
    if self.fault != 'check':
      return super().plan(tokens, signals, state)
    return self.decide(tokens, signals, state)


@pytest.mark.parametrize(
  ('fault', 'check', 'message'),
  [
    ('needs', 'runs_on_what_it_needs', r'signals that `needs` does not name'),
    (['a list'], 'is_hashable', 'fields are numbers, strings and tuples'),
    ('jit', 'jit_equals_eager', 'other tokens are kept in row 0'),
    ('float32', 'bfloat16_is_finite', 'bfloat16 features became float32'),
    ('gradient', 'gradients_reach_what_was_kept', 'tokens with a gradient'),
    ('mass', 'mass_is_accounted_for', 'not those of the assigned tokens'),
    ('all', 'shapes_at_published_sizes', r'became \(2, 576, 4096\)'),
    ('padding', 'row_equals_single_run', 'other tokens are kept in row 1'),
    ('padding', 'padding_is_ignored', 'other tokens are kept in row'),
    ('budget', 'budget_is_respected', 'gives 6 slots at most, got 7'),
    ('protected', 'protected_tokens_stay', '1 protected token a row'),
    ('merged', 'reduction_is_well_formed', 'belongs to another slot|sources'),
    ('junk', 'reduction_is_well_formed', 'padding was assigned'),
    ('check', 'bad_input_lists_all_causes', r'base\.check|hold NaN'),
  ],
)
def test_a_broken_promise_is_found(fault, check, message):
  with pytest.raises(AssertionError, match=message):
    getattr(testing.Checks(Longest(fault=fault)), check)()


def test_each_broken_promise_is_listed_with_its_cause():
  with pytest.raises(AssertionError) as error:
    skip = set(testing.CHECKS) - {
      'runs_on_what_it_needs',
      'budget_is_respected',
      'mass_is_accounted_for',
    }
    testing.check_pruner(Longest(fault='budget'), keeps_mass=True, skip=skip)
  said = str(error.value)
  assert "Longest(budget=5, positions='keep', fault='budget')" in said
  assert f'breaks 2 of {len(testing.CHECKS)} promises' in said
  assert '\n  budget_is_respected: ' in said and 'mass is lost' in said


def test_what_cannot_run_is_said_once():
  # The shortest row that is run alone has 12 tokens beside its protected one.
  for budget in (1000, 13):
    with pytest.raises(UserError, match=f'rows of 12 .* cannot be {budget};'):
      testing.check_pruner(Longest(budget=budget))
  with pytest.raises(AssertionError, match=r'breaks 1 of[\s\S]*say on=testing'):
    testing.check_pruner(before_llm.HiRED(budget=4))
  with pytest.raises(AssertionError, match=r"missing: \['needs', 'plan'\]"):
    testing.check_pruner(len)


def test_every_promise_is_asked_for():
  helpers = {'eager', 'inputs', 'program', 'variables'}
  public = {name for name in dir(testing.Checks) if not name.startswith('_')}
  assert public - helpers == set(testing.CHECKS)


ARRANGED = (
  testing.Inputs(),
  testing.Crops(),
  testing.Frames(),
  testing.Grid(),
  testing.Space(),
)


@pytest.mark.parametrize('on', ARRANGED, ids=lambda on: type(on).__name__)
def test_a_row_is_arranged_as_alone(on):
  tokens, signals = on.make(['keys'])
  assert tokens.num_protected == 1 and tokens.protected[:, 0].all()
  assert tokens.valid.sum(axis=1).tolist() == list(on.lengths)
  for row in (1, 2):
    alone, own = on.alone(['keys'], row=row)
    n = on.lengths[row]
    for field in ('features', 'positions', 'owner', 'valid', 'mass'):
      got, want = getattr(tokens, field), getattr(alone, field)
      np.testing.assert_array_equal(got[row, :n], want[0, :n])
    np.testing.assert_array_equal(signals.keys[row, :, :n], own.keys[0, :, :n])


def test_a_grid_of_another_shape():
  on = testing.Grid(grid=(3, 3))
  tokens, _ = on.make()
  assert tokens.features.shape[:2] == (8, 10) and tokens.grids == ((1, 3, 3),)
  assert on.lengths[:3] == (10, 6, 8) and on.unit == 10
  testing.check_pruner(Longest(budget=4), on=on)
  with pytest.raises(UserError, match='at most 23 places, and a grid of'):
    testing.Grid(grid=(5, 5))


def test_crops_lie_in_the_whole_image():
  tokens, _ = testing.Crops().make()
  layout = crop_layouts.layout_of(tokens).tolist()
  # A thumbnail and 3, 1, 2, 3, 0, 2, 3 and 1 crops of 2 x 3 places.
  three, two, one = [3, 1], [1, 2], [1, 1]
  assert layout == [three, one, two, three, one, two, three, one]
  assert tokens.owner[4].tolist() == [0] * 6 + [-1] * 18


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(testing.Inputs):
  """Every two tokens are of another image."""

  def arrange(self, tokens):
    owner = jnp.arange(tokens.valid.shape[1]) // 2
    return tokens.replace(owner=jnp.where(tokens.valid, owner[None], -1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owned(Longest):
  """Reads owners, and breaks on tokens of one image."""

  def plan(self, tokens, signals, state=None):
    if not isinstance(tokens.owner, jax.core.Tracer):
      assert (tokens.owner > 0).any(), 'one image'
    return super().plan(tokens, signals, state)


def test_a_pruner_is_checked_on_tokens_of_your_own_arrangement():
  testing.Checks(Owned(), on=Pairs()).jit_equals_eager()
  with pytest.raises(AssertionError, match='one image'):
    testing.Checks(Owned()).jit_equals_eager()
  skip = set(testing.CHECKS) - {'runs_on_what_it_needs', 'jit_equals_eager'}
  testing.check_pruner(Owned(), on=Pairs(), skip=skip)


def test_unknown_checks_are_refused():
  with pytest.raises(UserError, match=r"Did you mean 'is_hashable'\?"):
    testing.check_pruner(Longest(), skip=['is_hashible'])


def test_a_pruner_with_parameters_keeps_its_promises():
  testing.check_pruner(pruners.TokenLearner(tokens=4, bottleneck=8))


class Forgetful(nn.Module):
  """A module that reads nothing of its parameters at first."""

  needs: ClassVar[frozenset[str]] = frozenset()

  @nn.compact
  def plan(self, tokens, signals, state=None):
    scale = self.param('scale', nn.initializers.zeros, ())
    x = jnp.abs(tokens.features).sum(axis=-1) * scale
    kept, _ = selectors.top(
      x,
      count=jnp.full((x.shape[0],), 3),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return selectors.selection(tokens, kept, capacity=4)

  def __call__(self, tokens, signals, state=None):
    result = self.plan(tokens, signals, state)
    return pruners.reduce_tokens(tokens, result), result


def test_parameters_are_drawn_so_that_they_matter_or_taken_as_given():
  drawn = testing.Checks(Forgetful())
  assert abs(drawn.variables['params']['scale']) > 0
  given = {'params': {'scale': jnp.float32(0)}}
  zero = testing.Checks(Forgetful(), variables=given)
  inputs = zero.inputs()
  assert isinstance(inputs[0], Tokens)
  slots = zero.program(*inputs)[1].index
  assert (slots == jnp.arange(4)[None]).all()  # all scores are equal
  assert not (drawn.program(*inputs)[1].index == slots).all()
