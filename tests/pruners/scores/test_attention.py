"""Scores from attention and from text, against loops."""

import jax.numpy as jnp
import numpy as np
import pytest
from padded import Parts

from tokpress_jax.pruners import scores

HEADS, WORDS = 3, 5


def softmax(x):
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def draw(rng, n):
  normal = lambda *s: rng.normal(size=s).astype(np.float32)
  words = np.arange(WORDS) < rng.integers(2, WORDS + 1)
  return {
    'row': np.abs(normal(HEADS, n)),
    'rows': np.abs(normal(HEADS, WORDS, n)),
    'logits': normal(HEADS, n, n),
    'queries': normal(HEADS, WORDS, 4),
    'keys': normal(HEADS, n, 4),
    'x': normal(n, 6),
    'text': normal(WORDS, 6),
    'words': words,
    'text_attention': np.abs(normal(HEADS, WORDS, WORDS)),
  }


AXES = {
  'row': 'AN',
  'rows': 'AMN',
  'logits': 'ANN',
  'queries': 'AMD',
  'keys': 'AND',
  'x': 'ND',
}


def walk(logits, damping=0.0, **_):
  n = logits.shape[-1]
  ends = []
  for head in logits.astype(np.float64):
    move = softmax(head / 0.1)
    at = np.full(n, 1 / n)
    for _ in range(5):
      at = damping / n + (1 - damping) * at @ move
    ends.append(at)
  return np.sqrt(np.mean(np.square(ends), axis=0))


def causal_logits(i):
  slots = jnp.arange(i['logits'].shape[-1])
  seen = (slots[:, None] >= slots[None])[None, None]
  return jnp.where(seen, i['logits'], -jnp.inf)


def causal_walk(logits, **_):
  seen = np.tril(np.ones(logits.shape[-2:], bool))
  return walk(np.where(seen, logits, -np.inf))


def strongest(i):
  best = scores.strongest_heads(
    i['rows'], count=2, valid=i['valid'], weight=i['words']
  )
  return scores.attention_rows(best, weight=i['words'], heads='sum')


def strongest_oracle(rows, words, **_):
  mass = [rows[h][words].sum() for h in range(HEADS)]
  best = np.argsort(mass)[::-1][:2]
  return rows[best][:, words].mean(1).sum(0)


def cosines(x, text):
  unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)
  return unit(x) @ unit(text).T


def weights_oracle(x, text, words, **_):
  share = np.zeros((len(x), WORDS))
  share[:, words] = softmax(x.astype(np.float64) @ text[words].T)
  return share.mean(0)


def rater_rows(i):
  weights = scores.rater_weights(
    i['x'], i['text'], valid=i['valid'], text_valid=i['words']
  )
  chosen = scores.raters(weights, text_valid=i['words'])
  return scores.attention_rows(i['rows'], weight=chosen)


def rater_rows_oracle(rows, **row):
  weights = weights_oracle(**row)
  words = row['words']
  chosen = words & (weights > weights[words].mean())
  return rows[:, chosen].mean((0, 1))


def prior_rows(i):
  prior = scores.text_prior(i['text_attention'], text_valid=i['words'])
  return scores.attention_rows(
    i['rows'], weight=prior, heads='sum', queries='sum'
  )


def prior_rows_oracle(rows, text_attention, words, **_):
  total = 0
  for a, to_image in zip(text_attention, rows, strict=True):
    a = a[words][:, words]
    both = a + a.T - np.diag(np.diag(a))
    total = total + both.sum(0) @ to_image[words]
  return total


def attended(i):
  return scores.attend(i['queries'], i['keys'], valid=i['valid'])


def attended_oracle(queries, keys, **_):
  return softmax(np.einsum('amd,and->amn', queries, keys) / 2)


CASES = {
  **{
    f'row-{h}': (
      lambda i, h=h: scores.attention_row(i['row'], heads=h),
      lambda row, h=h, **_: getattr(row, h)(axis=0),
    )
    for h in ('mean', 'sum', 'max')
  },
  'row-of-each-head': (
    lambda i: scores.attention_row(i['row'], heads='none'),
    lambda row, **_: row,
  ),
  **{
    f'rows-{q}-{h}': (
      lambda i, h=h, q=q: scores.attention_rows(
        i['rows'], weight=i['words'], heads=h, queries=q
      ),
      lambda rows, words, h=h, q=q, **_: getattr(
        getattr(rows[:, words], h)(axis=0), q
      )(axis=0),
    )
    for h in ('mean', 'sum', 'max')
    for q in ('mean', 'sum', 'max')
  },
  'rows-max-of-each-head': (
    lambda i: scores.attention_rows(
      i['rows'], weight=i['words'], heads='none', queries='max'
    ),
    lambda rows, words, **_: rows[:, words].max(1),
  ),
  'strongest-heads': (strongest, strongest_oracle),
  'column-per-visible-query': (
    lambda i: scores.attention_column(
      i['row'], visible=scores.visible_queries(i['valid'])
    ),
    lambda row, **_: row.mean(0) / np.arange(row.shape[1], 0, -1),
  ),
  'column-sum': (
    lambda i: scores.attention_column(i['row'], heads='sum'),
    lambda row, **_: row.sum(0),
  ),
  'pagerank': (
    lambda i: scores.pagerank(i['logits'], valid=i['valid']),
    walk,
  ),
  'pagerank-damped': (
    lambda i: scores.pagerank(i['logits'], valid=i['valid'], damping=0.15),
    lambda logits, **_: walk(logits, damping=0.15),
  ),
  'pagerank-causal': (
    lambda i: scores.pagerank(causal_logits(i), valid=i['valid']),
    causal_walk,
  ),
  'attend': (attended, attended_oracle),
  'logits': (
    lambda i: scores.attend(
      i['queries'], i['keys'], valid=i['valid'], source='logit'
    ),
    lambda queries, keys, **_: np.einsum('amd,and->amn', queries, keys) / 2,
  ),
  **{
    f'text-{o}': (
      lambda i, o=o: scores.text_similarity(
        i['x'], i['text'], text_valid=i['words'], over=o
      ),
      lambda x, text, words, o=o, **_: getattr(cosines(x, text[words]), o)(-1),
    )
    for o in ('mean', 'sum', 'max')
  },
  'rater-weights': (
    lambda i: scores.rater_weights(
      i['x'], i['text'], valid=i['valid'], text_valid=i['words']
    ),
    weights_oracle,
  ),
  'rows-of-raters': (rater_rows, rater_rows_oracle),
  'rows-by-text-prior': (prior_rows, prior_rows_oracle),
}
PARTS = Parts({name: part for name, (part, _) in CASES.items()}, draw, AXES)


@pytest.mark.parametrize('name', CASES)
def test_part(name):
  PARTS.check(name, CASES[name][1])


def test_heads_come_before_the_maximum_over_queries():
  rows = jnp.array([[[[0.9, 0.0], [0.0, 0.2]], [[0.0, 0.0], [0.8, 0.2]]]])
  got = scores.attention_rows(rows, queries='max')
  np.testing.assert_allclose(got, [[0.45, 0.2]], rtol=1e-6)  # not 0.85


def test_no_query_and_no_text_score_nothing():
  none = jnp.zeros((1, 2), bool)
  rows = jnp.ones((1, 3, 2, 4))
  for how in ('mean', 'sum', 'max'):
    got = scores.attention_rows(rows, weight=none, queries=how)
    assert got.tolist() == [[0] * 4]
    x, text = jnp.ones((1, 4, 3)), jnp.ones((1, 2, 3))
    got = scores.text_similarity(x, text, text_valid=none, over=how)
    assert got.tolist() == [[0] * 4]


def test_queries_that_see_nothing_attend_to_nothing():
  seen = jnp.array([[[True, False], [False, False]]])
  got = scores.attend(
    jnp.ones((1, 1, 2, 3)),
    jnp.ones((1, 1, 2, 3)),
    valid=jnp.ones((1, 2), bool),
    visible=seen,
  )
  assert got[0, 0].tolist() == [[1, 0], [0, 0]]


def test_unknown_names_are_refused():
  with pytest.raises(ValueError, match=r"join heads 'first'.*'none'"):
    scores.attention_row(jnp.ones((1, 2, 3)), heads='first')
  with pytest.raises(ValueError, match='5 of 2 heads'):
    scores.strongest_heads(
      jnp.ones((1, 2, 1, 3)), count=5, valid=jnp.ones((1, 3), bool)
    )
  with pytest.raises(ValueError, match="got 'first'"):
    scores.text_similarity(
      jnp.ones((1, 2, 3)),
      jnp.ones((1, 1, 3)),
      text_valid=jnp.ones((1, 1), bool),
      over='first',
    )
