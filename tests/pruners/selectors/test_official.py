"""Selectors keep the tokens that AngelSlim's pruners keep (golden file)."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import selectors_case as case

from tokpress_jax.pruners import scores, selectors, similarities

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'selectors.npz')
SHAPE = (case.ROWS, case.SLOTS)
IMAGE = np.broadcast_to(case.is_image(), SHAPE)
MASKS = {'valid': jnp.ones(SHAPE, bool), 'protected': jnp.asarray(~IMAGE)}


def on_image(x):
  """Image tokens' numbers [B, IMAGE] at their slots, 0 elsewhere."""
  return jnp.pad(x, ((0, 0), (case.BEFORE, case.AFTER)))


def attention(arrays, layer):
  """The class token's attention to the patches, mean over heads."""
  queries, keys = arrays['queries'][:, layer], arrays['keys'][:, layer]
  valid = jnp.ones((case.ROWS, case.IMAGE), bool)
  rows = scores.attend(queries[:, :, :1], keys[:, :, 1:], valid=valid)
  return on_image(scores.attention_rows(rows))


def top(score):
  return lambda count, protected: selectors.top(
    score, count=count, valid=MASKS['valid'], protected=protected
  )


def divprune(arrays, kept, count):
  x = arrays['embeds']
  return selectors.farthest(
    similarities.cosine_distance_rows(x),
    start=-similarities.nearest_other(x, IMAGE),
    count=count,
    limit=kept,
    **MASKS,
  )[0]


def scope(arrays, kept, count):
  gram = similarities.cosine(arrays['embeds'])
  score = attention(arrays, 0)
  return selectors.coverage(score, gram, count=count, limit=kept, **MASKS)[0]


def dart(arrays, kept, count):
  norm = scores.norm(similarities.join_heads(arrays['llm_keys']), order=1)
  best = lambda mask, n: jax.lax.top_k(jnp.where(mask, norm, -jnp.inf), n)[1]
  pivots = jnp.concatenate(
    [best(IMAGE, case.IMAGE_PIVOTS), best(~IMAGE, case.TEXT_PIVOTS)], axis=1
  )
  rows = similarities.cosine_rows(arrays['embeds'])
  return selectors.least_similar(rows, pivots=pivots, count=count, **MASKS)[0]


def vispruner(arrays, kept, count):
  gram = similarities.cosine(arrays['embeds'])
  rest = lambda count, protected: selectors.without_duplicates(
    gram, count=count, valid=MASKS['valid'], protected=protected
  )
  half = jnp.full_like(count, round(kept * 0.5))
  stages = [(half, top(attention(arrays, 0))), (None, rest)]
  return selectors.staged(stages, count=count, **MASKS)[0]


def hiprune(arrays, kept, count):
  def anchors(count, protected):
    chosen, _ = top(attention(arrays, 0))(count, protected)
    return selectors.dilate(chosen & ~protected, width=case.SIDE, **MASKS)

  number = jnp.full_like(count, case.ANCHORS[case.KEPT.index(kept)])
  stages = [(number, anchors), (None, top(attention(arrays, 1)))]
  return selectors.staged(stages, count=count, **MASKS)[0]


def idpruner(arrays, kept, count, at_once=1):
  score = scores.normalise(
    on_image(arrays['importance']), valid=IMAGE, by='minmax', eps=1e-6
  )
  return selectors.relevant_and_diverse(
    score,
    similarities.cosine_rows(arrays['embeds']),
    balance=case.BALANCE,
    count=count,
    limit=kept,
    at_once=at_once,
    **MASKS,
  )[0]


METHODS = {
  'divprune': divprune,
  'scope': scope,
  'dart': dart,
  'vispruner': vispruner,
  'hiprune': hiprune,
  'idpruner': idpruner,
  'idpruner_by_four': lambda *args: idpruner(*args, at_once=4),
}


@pytest.mark.parametrize('name', METHODS)
def test_tokens_are_those_of_angelslim(name):
  arrays = case.inputs()

  @jax.jit
  def run(arrays):
    full = lambda kept: jnp.full((case.ROWS,), kept, jnp.int32)
    return [METHODS[name](arrays, k, full(k)) for k in case.KEPT]

  np.testing.assert_array_equal(np.stack(run(arrays)), GOLDEN[name])


def test_every_method_of_the_file_is_compared():
  assert set(GOLDEN.files) == set(METHODS)
