"""Pruners by name, by file and by module, and what is said otherwise."""

import jax
import jax.numpy as jnp
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners.find import find_pruner
from tokpress_jax.types import Tokens

FILE = """
import dataclasses
import flax.linen as nn
from tokpress_jax import pruners
from tokpress_jax.types import Signals


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loud(pruners.TopK):
  power: int = 1

  def score(self, tokens, signals):
    return abs(tokens.features[..., 0]) ** self.power


class Learned(nn.Module):
  needs = frozenset()

  def plan(self, tokens, signals, state=None):
    return None


class Thawed:
  needs = frozenset()

  def plan(self, tokens, signals, state=None):
    return None


loud = Loud(budget=1)
"""


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'mine.py'
  path.write_text(FILE)
  return path


def test_a_registered_name_and_a_module():
  assert find_pruner('tome') is pruners.ToMe
  assert find_pruner('tokpress_jax.pruners.topk:TopNorm') is pruners.TopNorm
  assert (
    find_pruner('tokpress_jax.pruners.inside_vit.diffrate') is pruners.DiffRate
  )


def test_a_class_of_a_file_runs_in_jit(file):
  pruner = find_pruner(f'{file}:Loud')(budget=2, power=2)
  tokens = Tokens.create(jnp.array([[[1.0], [-3.0], [2.0]]]))
  _, reduction = jax.jit(pruner)(tokens)
  assert reduction.index.tolist() == [[1, 2]]


def test_the_only_pruner_of_a_file_needs_no_name(file):
  file.write_text(FILE.split('class Learned')[0])
  assert find_pruner(file).__name__ == 'Loud'


def test_files_of_one_name_are_two(file, tmp_path):
  other = tmp_path / 'other' / 'mine.py'
  other.parent.mkdir()
  other.write_text(FILE.replace('power: int = 1', 'power: int = 5'))
  assert find_pruner(f'{file}:Loud')().power == 1
  assert find_pruner(f'{other}:Loud')().power == 5


@pytest.mark.parametrize(
  ('reference', 'said'),
  [
    ('tom', r"no pruner 'tom'. Did you mean 'tome'.*path/to/file\.py:Class"),
    ('D/min.py:Loud', r'no Python file .*Did you mean mine\.py\?'),
    ('D/mine.py:Lowd', "has no 'Lowd'. Did you mean 'Loud'"),
    ('D/mine.py', r'defines Loud, Learned, Thawed; .*mine\.py:Loud'),
    ('D/mine.py:Learned', r'learned parameters.*module\.bind\(variables\)'),
    ('D/mine.py:Thawed', r'not a frozen dataclass.*frozen=True'),
    ('D/mine.py:loud', 'expected a class, got Loud'),
    ('D/mine.py:Signals', 'is not a pruner: it has no needs and no plan'),
    ('no.such.module:X', "no module 'no.such.module'"),
    ('D/broken.py:X', r'does not run: NameError: .*broken\.py, line 3'),
    ('D/half.py:X', r'does not run: SyntaxError: .*half\.py, line 1'),
    ('D/empty.py', r'defines no pruner; .*empty\.py:MyPruner'),
  ],
)
def test_what_is_wrong_is_said(file, reference, said):
  folder = file.parent
  (folder / 'broken.py').write_text('\n\nundefined\n')
  (folder / 'half.py').write_text('class X(:\n')
  (folder / 'empty.py').write_text('')
  with pytest.raises(UserError, match=said):
    find_pruner(reference.replace('D/', f'{folder}/'))


def test_a_file_that_breaks_leaves_the_one_before(file):
  before = find_pruner(f'{file}:Loud')
  file.write_text(FILE + '\nundefined\n')
  with pytest.raises(UserError, match='NameError'):
    find_pruner(f'{file}:Loud')
  assert jax.jit(before(budget=1))(Tokens.create(jnp.ones((1, 2, 1))))


WRONG = """
import dataclasses
from tokpress_jax import pruners
from tokpress_jax.pruners import budgets, selectors


class Base(pruners.Pruner):
  def decide(self, tokens, signals, state):
    kept = selectors.top(
      tokens.features[..., 0],
      count=budgets.row_counts(self.budget, tokens),
      valid=tokens.valid,
      protected=tokens.protected,
    )
    return self.end(tokens, kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair(Base):
  def end(self, tokens, kept):
    return selectors.selection(tokens, kept, capacity=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Numbers(Base):
  def end(self, tokens, kept):
    return selectors.selection(tokens, kept[1], capacity=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Merged(Base):
  def end(self, tokens, kept):
    return pruners.nearest_kept(
      tokens.features, tokens, kept=kept, capacity=1
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mask(Base):
  def end(self, tokens, kept):
    return kept[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone(pruners.Selecting):
  def select(self, tokens, signals, *, count, limit):
    return tokens.valid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wide(pruners.TopK):
  def score(self, tokens, signals):
    return tokens.features


@dataclasses.dataclass(frozen=True, kw_only=True)
class Both(pruners.TopK):
  def score(self, tokens, signals):
    return tokens.features[..., 0], tokens.valid
"""


@pytest.mark.parametrize(
  ('name', 'said'),
  [
    ('Pair', r'kept must be a mask, bool \[B=1, N=3\], got a tuple of 2; sel'),
    ('Numbers', r'kept must be a mask, .* got int32 \(1, 3\)'),
    ('Merged', r'this merger cannot run:\n +kept must be a mask'),
    ('Mask', r'^Mask\.decide gave \w+; it gives a Reduction'),
    ('Alone', r'^Alone\.select gave an array of \(1, 3\); it gives \(kept, r'),
    ('Wide', r'^Wide\.score gave an array of \(1, 3, 1\); .* \[B=1, N=3\]'),
    ('Both', r'^Both\.score gave a tuple of 2; it gives a number for each'),
  ],
)
def test_what_a_method_gives_wrongly_is_said(tmp_path, name, said):
  path = tmp_path / 'wrong.py'
  path.write_text(WRONG)
  pruner = find_pruner(f'{path}:{name}')(budget=1)
  tokens = Tokens.create(jnp.array([[[1.0], [-3.0], [2.0]]]))
  for call in (pruner, jax.jit(pruner)):
    with pytest.raises(UserError, match=said):
      call(tokens)
