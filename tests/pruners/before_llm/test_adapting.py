"""Published settings on CLIP's 24 layers, and on other towers."""

import pytest

from tokpress_jax import registry
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import Random, before_llm
from tokpress_jax.types import Ratio


def test_the_published_layers_of_24():
  layers = lambda cls: before_llm.layers_of(cls, depth=24)
  for cls in (before_llm.VTCCLS, before_llm.HiPrune, before_llm.TokenCorr):
    published = cls()
    own = layers(cls)
    assert own and own == {name: getattr(published, name) for name in own}
  assert not layers(before_llm.DivPrune)


@pytest.mark.parametrize('depth', [2, 3, 4, 6, 12, 32])
@pytest.mark.parametrize('layer', [-2, -1])
def test_layers_are_there_and_end_at_the_one_that_is_read(depth, layer):
  of = lambda cls: before_llm.layers_of(cls, depth=depth, layer=layer)
  vtc = of(before_llm.VTCCLS)['layers']
  assert vtc[-1] == layer and -depth <= vtc[0] <= layer
  assert list(vtc) == list(range(vtc[0], layer + 1))
  for cls, first, last in (
    (before_llm.HiPrune, 'middle', 'deep'),
    (before_llm.TokenCorr, 'local', 'global_'),
  ):
    fields = of(cls)
    assert -depth <= fields[first] < depth and fields[last] == layer
  # A layer that is counted from the start is the same one.
  counted = before_llm.layers_of(
    before_llm.VTCCLS, depth=depth, layer=depth + layer
  )
  assert counted == {'layers': vtc}


def make(cls, tokens, patches=576, **kwargs):
  return before_llm.at_budget(cls, tokens, patches=patches, depth=24, **kwargs)


def test_budgets_as_each_method_says_them():
  assert make(before_llm.DivPrune, 64) == before_llm.DivPrune(budget=64)
  # "64", "128" and "256" of the paper.
  for tokens, step in ((67, 11), (137, 6), (288, 3)):
    assert make(before_llm.PruMergePlus, tokens).step == step
  for tokens, ratio in ((288, 0.5), (200, 0.25), (144, 0.25), (64, 0.0625)):
    assert make(before_llm.AIM, tokens).budget == Ratio(ratio=ratio)
    assert ratio * 576 <= tokens
  crops = make(before_llm.GlobalCom2, 640, patches=2880)
  assert crops.budget == Ratio(ratio=640 / 2880, rounding='floor')
  # One token of each of 8 x 8 windows is the least.
  assert make(before_llm.MustDrop, 50).budget == 64
  assert make(before_llm.MustDrop, 100).budget == 100
  assert make(before_llm.SCOPE, 9, alpha=2.0).alpha == 2
  assert make(before_llm.HiPrune, 9, middle=3).middle == 3
  assert make(Random, 9) == Random(budget=9)


def test_what_does_not_fit_is_said():
  for tokens in (0, 577):
    with pytest.raises(UserError, match='give 1 to 576'):
      make(before_llm.DivPrune, tokens)
  with pytest.raises(UserError, match=r'SCOPE cannot be made: .*beta'):
    make(before_llm.SCOPE, 9, beta=1)


def test_who_reads_a_text():
  names = {
    entry.name
    for entry in registry.entries('pruner')
    if before_llm.reads_text(registry.resolve(entry.name)())
  }
  assert names == {'dart', 'catp', 'idpruner', 'recoverable'}
  assert not before_llm.reads_text(before_llm.DART(text_pivots=0))
  assert not before_llm.reads_text(before_llm.DART(by='keys'))
