"""Pruners keep the image tokens that AngelSlim's keep (golden file)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import selectors_case as case

from tokpress_jax.pruners import before_llm, scores
from tokpress_jax.types import TEXT, VISION, Ratio, Signals, Tap, Tokens

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'selectors.npz')
IMAGE = np.broadcast_to(case.is_image(), (case.ROWS, case.SLOTS))


def on_image(x):
  """Image tokens' numbers [..., IMAGE] at their slots, 0 elsewhere."""
  wide = [(0, 0)] * (x.ndim - 1)
  return jnp.pad(jnp.asarray(x), [*wide, (case.BEFORE, case.AFTER)])


def inputs():
  """Words, protected, around the tokens of an image, and their signals.

  The official functions attend from the class token to the patches, without
  itself.
  """
  arrays = case.inputs()
  tokens = Tokens.create(
    arrays['embeds'],
    kind=np.where(IMAGE, VISION, TEXT),
    protected=~IMAGE,
  )
  taps = {}
  for layer, name in enumerate((-2, -1)):
    queries, keys = (arrays[n][:, layer] for n in ('queries', 'keys'))
    valid = jnp.ones((case.ROWS, case.IMAGE), bool)
    row = scores.attend(queries[:, :, :1], keys[:, :, 1:], valid=valid)
    taps[Tap('attention_row', name)] = on_image(row[:, :, 0])
    taps[Tap('attention_column', name)] = on_image(row[:, :, 0])
  signals = Signals(
    keys=jnp.asarray(arrays['llm_keys']),
    importance=on_image(arrays['importance']),
    taps=taps,
  )
  return tokens, signals


def options(name):
  """How the file was made."""
  balance = {'balance': case.BALANCE}
  return {
    'divprune': (before_llm.DivPrune, {}),
    'scope': (before_llm.SCOPE, {}),
    'dart': (
      before_llm.DART,
      {
        'by': 'keys',
        'image_pivots': case.IMAGE_PIVOTS,
        'text_pivots': case.TEXT_PIVOTS,
      },
    ),
    'vispruner': (before_llm.VisPruner, {}),
    'hiprune': (
      before_llm.HiPrune,
      {'middle': -2, 'deep': -1, 'share': case.ALPHA, 'width': case.SIDE},
    ),
    'idpruner': (before_llm.IDPruner, balance),
    'idpruner_by_four': (before_llm.IDPruner, {**balance, 'at_once': 4}),
  }[name]


@pytest.mark.parametrize('name', GOLDEN.files)
def test_tokens_are_those_of_angelslim(name):
  cls, settings = options(name)

  @jax.jit
  def run(tokens, signals):
    return [
      cls(budget=budget, **settings).plan(tokens, signals).assign.target >= 0
      for budget in case.KEPT
    ]

  kept = np.stack(run(*inputs()))
  np.testing.assert_array_equal(kept, GOLDEN[name])


def test_a_ratio_is_rounded_as_there():
  tokens, signals = inputs()
  for ratio, kept in zip(case.RATIOS, case.KEPT, strict=True):
    budget = Ratio(ratio=round(1 - ratio, 3), rounding='round')
    got = before_llm.DivPrune(budget=budget).plan(tokens, signals)
    assert got.index.shape[1] == kept + case.BEFORE + case.AFTER
