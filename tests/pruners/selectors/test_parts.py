"""Selectors against loops; what each keeps, and in which order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from padded import Parts

from tokpress_jax.pruners import scores, selectors, similarities
from tokpress_jax.pruners.selectors import covering as covering_lib
from tokpress_jax.pruners.selectors import duplicates as duplicates_lib
from tokpress_jax.pruners.selectors import lines as lines_lib

LIMIT = 6


def draw(rng, n):
  normal = lambda *s: rng.normal(size=s).astype(np.float32)
  protected = np.zeros(n, bool)
  protected[rng.integers(n)] = True
  free = np.flatnonzero(~protected)
  return {
    'x': normal(n, 5),
    's': normal(n),
    'attention': np.abs(normal(n)),
    'weight': rng.uniform(0.1, 1, size=n).astype(np.float32),
    'protected': protected,
    # Coarse, so that there are ties.
    'coarse': rng.integers(0, 3, size=n).astype(np.float32),
    'group': rng.integers(0, 3, size=n).astype(np.int32),
    'counts': rng.integers(0, 4, size=3).astype(np.int32),
    'count': np.int32(rng.integers(1, min(LIMIT, len(free)) + 1)),
    # Two tokens that are picked among, and the protected one.
    'pivots': np.append(
      rng.permutation(free)[:2], np.flatnonzero(protected)
    ).astype(np.int32),
  }


AXES = {
  'x': 'ND',
  's': 'N',
  'attention': 'N',
  'weight': 'N',
  'protected': 'N',
  'coarse': 'N',
  'group': 'N',
  'pivots': 'slot',
}


def masks(i, *names):
  return {k: i[k] for k in ('valid', 'protected', *names)}


def free_of(i):
  return i['valid'] & ~i['protected']


def cosines(x):
  x = x.astype(np.float64)
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  return unit @ unit.T


def fixed_and_free(protected):
  return [int(n) for n in np.flatnonzero(protected)], [
    int(n) for n in np.flatnonzero(~protected)
  ]


def best(among, value):
  """The first of the highest."""
  return max(among, key=lambda n: (value[n], -n))


def order(among, value):
  return sorted(among, key=lambda n: (-value[n], n))


# -- grouped and counted


def grouped_oracle(s, group, counts, protected, **_):
  fixed, free = fixed_and_free(protected)
  kept = []
  for g, count in enumerate(counts):
    kept += order([n for n in free if group[n] == g], s)[:count]
  return fixed + order(kept, s)


def chunks_oracle(s, protected, count, **_):
  fixed, free = fixed_and_free(protected)
  cut = [free[i : i + 3] for i in range(0, len(free), 3)]
  means = {i: np.mean(s[c].astype(np.float64)) for i, c in enumerate(cut)}
  return fixed + [n for i in order(means, means)[:count] for n in cut[i]]


def counted(name, i, key, **how):
  free = free_of(i)
  count = getattr(selectors, name)(i[key], free=free, limit=LIMIT, **how)
  return count, selectors.top(i[key], count=count, **masks(i))


def above_oracle(protected, s, passed, minimum=0):
  fixed, free = fixed_and_free(protected)
  count = min(max(sum(passed(s[free])), minimum), LIMIT, len(free))
  return fixed + order(free, s)[:count]


def mass_oracle(attention, protected, **_):
  fixed, free = fixed_and_free(protected)
  line = order(free, attention)
  goal, total, used = 0.6 * attention[free].sum(), 0, 0
  while total <= goal:
    total += attention[line[used]]
    used += 1
  return fixed + line[: min(used, LIMIT)]


def tail_oracle(attention, protected, **_):
  fixed, free = fixed_and_free(protected)
  line = order(free, attention)
  total, dropped = 0, 1
  for n in line[::-1]:
    total += attention[n]
    dropped += total < 0.3 * attention[free].sum()
  return fixed + line[: min(max(len(free) - dropped, 1), LIMIT)]


def lof(values, near):
  """Local outlier factors, as defined by Breunig et al."""
  n = len(values)
  near = min(near, n - 1)
  apart = np.abs(values[:, None] - values[None]).astype(np.float64)
  others = [
    sorted((j for j in range(n) if j != i), key=lambda j, i=i: apart[i, j])[
      :near
    ]
    for i in range(n)
  ]
  furthest = [max(apart[i, j] for j in others[i]) for i in range(n)]
  density = [
    1 / (np.mean([max(apart[i, j], furthest[j]) for j in others[i]]) + 1e-10)
    for i in range(n)
  ]
  return np.array(
    [np.mean([density[j] for j in others[i]]) / density[i] for i in range(n)]
  )


def two_thresholds(i):
  kept = ~((i['s'] < 0.2) & (i['attention'] < 1))
  return selectors.within(kept, i['s'], limit=3, **masks(i))


def two_thresholds_oracle(s, attention, protected, **_):
  fixed, free = fixed_and_free(protected)
  passed = [n for n in free if not (s[n] < 0.2 and attention[n] < 1)]
  return fixed + order(passed, s)[:3]


# -- greedy


def picking(i):
  return {**masks(i, 'count'), 'limit': min(LIMIT, i['s'].shape[-1])}


def divprune(i):
  start = -similarities.nearest_other(similarities.cosine(i['x']), free_of(i))
  rows = similarities.complement(similarities.cosine_rows(i['x']))
  return selectors.farthest(rows, start=start, **picking(i))


def farthest_oracle(distance, start, protected, count, weight=None, join=min):
  fixed, free = fixed_and_free(protected)
  weight = np.ones(len(distance)) if weight is None else weight
  picks = [best(free, start)]
  while len(picks) < count:
    rest = [n for n in free if n not in picks]
    gain = {n: join(distance[n][p] for p in picks) * weight[n] for n in rest}
    picks.append(best(rest, gain))
  return fixed + picks


def divprune_oracle(x, protected, count, **_):
  gram = cosines(x)
  _, free = fixed_and_free(protected)
  start = {n: -max(gram[n][j] for j in free if j != n) for n in free}
  return farthest_oracle(1 - gram, start, protected, count)


def segpruner(i):
  return selectors.farthest(
    similarities.distance_rows(i['x']),
    start=jnp.zeros_like(i['s']),
    **picking(i),
  )


def segpruner_oracle(x, protected, count, **_):
  distance = np.linalg.norm(x[:, None] - x[None], axis=-1)
  return farthest_oracle(distance, np.zeros(len(x)), protected, count)


def zoo(i):
  return selectors.farthest(
    similarities.complement(similarities.cosine_rows(i['x'])),
    start=i['weight'],
    weight=i['weight'],
    **picking(i),
  )


def todre(i):
  return selectors.farthest(
    similarities.complement(similarities.cosine_rows(i['x'])),
    start=i['attention'],
    to='all',
    **picking(i),
  )


def relevant(i, at_once=1):
  return selectors.relevant_and_diverse(
    scores.normalise(i['s'], valid=i['valid'], by='minmax'),
    similarities.cosine_rows(i['x']),
    balance=0.4,
    at_once=at_once,
    **picking(i),
  )


def relevant_oracle(s, x, protected, count, at_once=1, **_):
  fixed, free = fixed_and_free(protected)
  s, gram = (s - s.min()) / (s.max() - s.min()), cosines(x)
  picks = order(free, s)[: min(at_once, count)]
  while len(picks) < count:
    rest = [n for n in free if n not in picks]
    gain = {n: 0.4 * s[n] - 0.6 * max(gram[n][picks]) for n in rest}
    picks += order(rest, gain)[: min(at_once, count - len(picks))]
  return fixed + picks


def covering(i, combine):
  return selectors.coverage(
    i['attention'], similarities.cosine(i['x']), combine=combine, **picking(i)
  )


def covering_oracle(attention, x, protected, count, combine, **_):
  fixed, free = fixed_and_free(protected)
  gram, picks = cosines(x), []
  covered = dict.fromkeys(free, 0.0)
  while len(picks) < count:
    rest = [n for n in free if n not in picks]
    gain = {}
    for n in rest:
      more = sum(max(gram[i][n] - covered[i], 0) for i in free)
      gain[n] = combine(more, attention[n])
    picks.append(best(rest, gain))
    for i in free:
      covered[i] = max(covered[i], gram[i][picks[-1]])
  return fixed + picks


# -- duplicates


def dart(i):
  return selectors.least_similar(
    similarities.cosine_rows(i['x']), pivots=i['pivots'], **masks(i, 'count')
  )


def dart_oracle(x, pivots, protected, count, **_):
  fixed, free = fixed_and_free(protected)
  gram = cosines(x)
  picks = [int(p) for p in pivots if p in free][:count]
  share = -(-(count - len(picks)) // len(pivots))
  for p in pivots:
    rest = [n for n in free if n not in picks]
    picks += order(rest, -gram[p])[: min(share, count - len(picks))]
  return fixed + picks


def deduplicated(i, at_once):
  return selectors.without_duplicates(
    similarities.cosine(i['x']), at_once=at_once, **masks(i, 'count')
  )


def deduplicated_oracle(x, protected, count, at_once, **_):
  fixed, left = fixed_and_free(protected)
  gram = cosines(x)
  while len(left) > count:
    a, b = left[::2], left[1::2]
    leave = min(at_once, len(left) // 2, len(left) - count)
    gone = order(a, {n: max(gram[n][b]) for n in a})[:leave]
    left = [n for n in left if n not in gone]
  return sorted(fixed + left)


# -- grids and stages


def dilated(i, edges):
  return selectors.dilate(i['s'] > 0.8, width=3, edges=edges, **masks(i))


def dilated_oracle(s, protected, edges, **_):
  fixed, free = fixed_and_free(protected)
  n = len(free)
  out = set()
  for i, slot in enumerate(free):
    if not s[slot] > 0.8:
      continue
    row, column = divmod(i, 3)
    if edges == 'clamp':
      near = [min(max(i + d, 0), n - 1) for d in (0, -1, 1, -3, 3)]
    else:
      cross = [(0, 0), (0, -1), (0, 1), (-1, 0), (1, 0)]
      cells = [(row + a, column + b) for a, b in cross]
      near = [a * 3 + b for a, b in cells if a >= 0 and 0 <= b < 3]
      near = [j for j in near if j < n]
    out |= {free[j] for j in near}
  return sorted(out | {f for f in fixed if s[f] > 0.8})


def hiprune(i):
  """One anchor with its neighbours, then the highest of another layer."""

  def anchors(count, protected):
    kept, _ = selectors.top(
      i['s'], count=count, valid=i['valid'], protected=protected
    )
    own = kept & ~protected
    return selectors.dilate(own, width=3, **masks(i))

  registers = lambda count, protected: selectors.top(
    i['attention'], count=count, valid=i['valid'], protected=protected
  )
  one = jnp.ones_like(i['count'])
  return selectors.staged(
    [(one, anchors), (None, registers)], **masks(i, 'count')
  )


def hiprune_oracle(s, attention, protected, count, **_):
  fixed, free = fixed_and_free(protected)
  at = free.index(best(free, s))
  near = {min(max(at + d, 0), len(free) - 1) for d in (0, -1, 1, -3, 3)}
  picks = sorted(free[j] for j in near)[:count]
  rest = [n for n in free if n not in picks]
  return fixed + picks + order(rest, attention)[: count - len(picks)]


def vispruner(i):
  """Half by attention, the rest without duplicates."""
  first = lambda count, protected: selectors.top(
    i['attention'], count=count, valid=i['valid'], protected=protected
  )
  second = lambda count, protected: selectors.without_duplicates(
    similarities.cosine(i['x']),
    count=count,
    valid=i['valid'],
    protected=protected,
  )
  kept, _ = selectors.staged(
    [(i['count'] // 2, first), (None, second)], **masks(i, 'count')
  )
  return kept


def vispruner_oracle(x, attention, protected, count, **_):
  _, free = fixed_and_free(protected)
  picks = order(free, attention)[: count // 2]
  mask = protected.copy()
  mask[picks] = True
  left = deduplicated_oracle(x, mask, count - len(picks), 8)
  return sorted(set(left))


CASES = {
  'top-grouped': (
    lambda i: selectors.top_grouped(
      i['s'], group=i['group'], counts=i['counts'], **masks(i)
    ),
    grouped_oracle,
  ),
  'top-grouped-ties': (
    lambda i: selectors.top_grouped(
      i['coarse'], group=i['group'], counts=i['counts'], **masks(i)
    ),
    lambda coarse, **row: grouped_oracle(**{**row, 's': coarse}),
  ),
  'top-of-chunks': (
    lambda i: selectors.top_grouped(
      i['s'],
      group=selectors.chunks(i['valid'], size=4),
      counts=jnp.repeat(i['counts'][:, :1], 3, 1),
      **masks(i),
    ),
    lambda s, counts, **row: grouped_oracle(
      **{
        **row,
        's': s,
        'group': np.arange(len(s)) // 4,
        'counts': [counts[0]] * 3,
      }
    ),
  ),
  'top-chunks': (
    lambda i: selectors.top_chunks(i['s'], size=3, **masks(i, 'count')),
    chunks_oracle,
  ),
  'above': (
    lambda i: counted('above', i, 's', threshold=0.3)[1],
    lambda s, protected, **_: above_oracle(protected, s, lambda v: v > 0.3),
  ),
  'above-with-minimum': (
    lambda i: counted('above', i, 's', threshold=1.0, minimum=2)[1],
    lambda s, protected, **_: above_oracle(protected, s, lambda v: v > 1, 2),
  ),
  'past-percentile': (
    lambda i: counted('past_percentile', i, 's', percent=60)[1],
    lambda s, protected, **_: above_oracle(
      protected, s, lambda v: v > np.percentile(v, 60)
    ),
  ),
  'top-mass': (
    lambda i: counted('top_mass', i, 'attention', mass=0.6)[1],
    mass_oracle,
  ),
  'tail': (
    lambda i: counted('tail', i, 'attention', mass=0.3)[1],
    tail_oracle,
  ),
  'outliers': (
    lambda i: counted('outliers', i, 's', factor=0.2)[1],
    lambda s, protected, **_: above_oracle(
      protected,
      s,
      lambda v: (
        v
        > np.percentile(v, 75)
        + 0.2 * (np.percentile(v, 75) - np.percentile(v, 25))
      ),
    ),
  ),
  'local-outliers': (
    lambda i: counted('local_outliers', i, 's', neighbours=3)[1],
    lambda s, protected, **_: above_oracle(
      protected, s, lambda v: lof(v, 3) > 1.5
    ),
  ),
  'two-thresholds': (two_thresholds, two_thresholds_oracle),
  'divprune': (divprune, divprune_oracle),
  'segpruner': (segpruner, segpruner_oracle),
  'zoo': (
    zoo,
    lambda x, weight, protected, count, **_: farthest_oracle(
      1 - cosines(x), weight, protected, count, weight
    ),
  ),
  'todre': (
    todre,
    lambda x, attention, protected, count, **_: farthest_oracle(
      1 - cosines(x), attention, protected, count, join=sum
    ),
  ),
  'relevant-and-diverse': (relevant, relevant_oracle),
  'relevant-and-diverse-by-two': (
    lambda i: relevant(i, at_once=2),
    lambda **row: relevant_oracle(**row, at_once=2),
  ),
  'coverage': (
    lambda i: covering(i, 'multiply'),
    lambda **row: covering_oracle(**row, combine=lambda a, b: a * b),
  ),
  'facility-location': (
    lambda i: covering(i, 'add'),
    lambda **row: covering_oracle(**row, combine=lambda a, b: a + b),
  ),
  'least-similar': (dart, dart_oracle),
  'without-duplicates': (
    lambda i: deduplicated(i, 8),
    lambda **row: deduplicated_oracle(**row, at_once=8),
  ),
  'without-duplicates-by-two': (
    lambda i: deduplicated(i, 2),
    lambda **row: deduplicated_oracle(**row, at_once=2),
  ),
  'dilate-clamp': (
    lambda i: dilated(i, 'clamp') & i['valid'],
    lambda **row: dilated_oracle(**row, edges='clamp'),
  ),
  'dilate-stop': (
    lambda i: dilated(i, 'stop') & i['valid'],
    lambda **row: dilated_oracle(**row, edges='stop'),
  ),
  'hiprune': (hiprune, hiprune_oracle),
  'vispruner': (vispruner, vispruner_oracle),
}
PARTS = Parts({name: part for name, (part, _) in CASES.items()}, draw, AXES)


@pytest.mark.parametrize('name', CASES)
def test_part(name):
  PARTS.check(name, CASES[name][1])


def test_local_outliers_are_those_of_scikit_learn():
  neighbors = pytest.importorskip('sklearn.neighbors')
  rng = np.random.default_rng(0)
  values = np.concatenate([rng.exponential(size=70), [9, 9.5, 14]])
  test = neighbors.LocalOutlierFactor(n_neighbors=20)
  want = int((test.fit_predict(values[:, None]) == -1).sum())
  got = selectors.local_outliers(
    values[None], free=np.ones((1, 73), bool), limit=73
  )
  assert int(got[0]) == want > 2


def test_everything_may_be_asked_for_and_nothing():
  x = np.random.default_rng(2).normal(size=(1, 6, 3)).astype(np.float32)
  s = jnp.arange(6.0)[None]
  rows = similarities.cosine_rows(x)
  valid = jnp.arange(6)[None] < 5
  protected = jnp.arange(6)[None] == 1
  same = {'valid': valid, 'protected': protected}
  pivots = jnp.array([[0, 2]])
  gram = similarities.cosine(x)
  for count, want in ((0, [1]), (6, [0, 1, 2, 3, 4])):
    few = {**same, 'count': jnp.array([count]), 'limit': 6}
    own = {**same, 'count': jnp.array([count])}
    for kept in (
      selectors.farthest(rows, start=s, **few)[0],
      selectors.relevant_and_diverse(s, rows, at_once=4, **few)[0],
      selectors.coverage(s * 0, gram, **few)[0],
      selectors.least_similar(rows, pivots=pivots, **own)[0],
      selectors.without_duplicates(gram, **own),
      selectors.top_chunks(s, size=2, **own)[0],
    ):
      assert np.flatnonzero(kept[0]).tolist() == want


def test_a_selection_is_constant_to_the_gradient():
  x = jnp.asarray(np.random.default_rng(3).normal(size=(1, 6, 3)))
  all_valid = jnp.ones((1, 6), bool)
  none = jnp.zeros((1, 6), bool)
  few = {'count': jnp.array([3]), 'valid': all_valid, 'protected': none}

  def total(x):
    gram = similarities.cosine(x)
    rows = similarities.complement(similarities.cosine_rows(x))
    start = -similarities.nearest_other(similarities.cosine(x), all_valid)
    kept, _ = selectors.farthest(rows, start=start, limit=3, **few)
    also = selectors.without_duplicates(gram, **few)
    far, _ = selectors.least_similar(rows, pivots=jnp.array([[0]]), **few)
    number = kept.astype(x.dtype) + also + far
    return (x.sum(axis=-1) * number).sum(), number

  slope, number = jax.jit(jax.grad(total, has_aux=True))(x)
  np.testing.assert_allclose(slope, jnp.repeat(number[..., None], 3, -1))


def test_a_reduction_of_a_greedy_order():
  from tokpress_jax.types import Tokens

  points = jnp.array([[[0.0], [1.0], [5.0], [9.0], [2.0]]])
  tokens = Tokens.create(points)
  kept, rank = selectors.farthest(
    similarities.distance_rows(points),
    start=jnp.zeros((1, 5)),
    count=jnp.array([3]),
    limit=4,
    valid=tokens.valid,
    protected=tokens.protected,
  )
  reduction = selectors.selection(tokens, kept, capacity=4, rank=rank)
  assert reduction.index[0, :3].tolist() == [0, 3, 2]
  assert reduction.valid[0].tolist() == [True, True, True, False]


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda s, m: selectors.chunks(m['valid'], size=0), 'got 0'),
    (
      lambda s, m: selectors.past_percentile(
        s, percent=101, free=m['valid'], limit=2
      ),
      'got 101',
    ),
    (
      lambda s, m: selectors.above(
        s, threshold=0, free=m['valid'], limit=1, minimum=2
      ),
      'at least 2 and at most 1',
    ),
    (
      lambda s, m: selectors.farthest(
        lambda p: s, start=s, count=2, limit=9, **m
      ),
      'limit=9 is outside 1 to 4',
    ),
    (
      lambda s, m: selectors.farthest(
        lambda p: s, start=s, count=2, limit=2, to='first', **m
      ),
      "got 'first'",
    ),
    (
      lambda s, m: selectors.relevant_and_diverse(
        s, lambda p: s, count=2, limit=2, at_once=0, **m
      ),
      'at_once=0 is outside 1 to 4',
    ),
    (
      lambda s, m: selectors.coverage(
        s, s[..., None], count=2, limit=2, combine='divide', **m
      ),
      "got 'divide'",
    ),
    (
      lambda s, m: selectors.without_duplicates(
        s[..., None], count=2, at_once=0, **m
      ),
      'got 0',
    ),
    (lambda s, m: selectors.dilate(m['valid'], width=0, **m), 'got 0'),
    (
      lambda s, m: selectors.dilate(m['valid'], width=2, edges='wrap', **m),
      "got 'wrap'",
    ),
    (lambda s, m: selectors.staged([], count=2, **m), 'at least one'),
  ],
)
def test_bad_input_is_said(call, said):
  valid = jnp.ones((1, 4), bool)
  with pytest.raises(ValueError, match=said):
    call(jnp.ones((1, 4)), {'valid': valid, 'protected': ~valid})


# -- the lazy ways of a CPU and those of an accelerator

FLOORS = {'multiply': 0.0, 'add': -1.0}
ROWS, WIDE = 3, 19


def hard_rows(kind, rng):
  """A Gram matrix with ties, NaN where padded, and which tokens are there."""
  x = rng.normal(size=(ROWS, WIDE, 4))
  if kind == 'repeated':
    x = x[:, rng.integers(0, 5, size=WIDE)]
  if kind == 'equal':
    x = np.broadcast_to(x[:, :1], x.shape)
  if kind == 'opposite':
    x = np.abs(x) * np.where(np.arange(WIDE) % 2, 1, -1)[:, None]
  gram = np.array(similarities.cosine(x.astype(np.float32)))
  if kind == 'rounded':
    gram = np.round(gram, 1)
  valid = np.arange(WIDE) < np.array([[WIDE], [9], [1]])
  gram[~valid[:, :, None] | ~valid[:, None]] = np.nan
  return gram, valid, rng.random((ROWS, WIDE)) < 0.15


@functools.cache
def coverage_of(way, join):
  how = {'join': getattr(jnp, join), 'limit': WIDE, 'floor': FLOORS[join]}
  return jax.jit(functools.partial(getattr(covering_lib, way), **how))


@functools.cache
def thinned_by(way, at_once):
  return jax.jit(
    functools.partial(getattr(duplicates_lib, way), at_once=at_once)
  )


KINDS = ('rounded', 'repeated', 'equal', 'opposite')


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('join', FLOORS)
def test_lazy_coverage_picks_what_the_eager_one_does(kind, join):
  rng = np.random.default_rng(3)
  gram, valid, protected = hard_rows(kind, rng)
  score = rng.random((ROWS, WIDE)).astype(np.float32)
  score[:, 4] = np.nan
  for scores_ in (score, -score, score - 0.5, np.round(2 * score), 0 * score):
    for count in ([0, 0, 0], [9, 3, 1], [1, 9, 0], [WIDE] * 3):
      ways = [
        coverage_of(way, join)(
          scores_, gram, jnp.array(count), valid, protected
        )
        for way in ('cover', 'cover_lazily')
      ]
      for eager, lazy in zip(*ways, strict=True):
        np.testing.assert_array_equal(eager, lazy)
      number = np.minimum(count, (valid & ~protected).sum(axis=1))
      fixed = (valid & protected).sum(axis=1)
      np.testing.assert_array_equal(ways[0][0].sum(axis=1), number + fixed)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('at_once', [1, 8])
def test_lazy_rounds_drop_the_same_duplicates(kind, at_once):
  rng = np.random.default_rng(4)
  gram, valid, protected = hard_rows(kind, rng)
  free = valid & ~protected
  for least in ([1, 1, 1], [9, 3, 1], [2, 7, 1], [WIDE] * 3):
    ways = [
      thinned_by(way, at_once)(gram, free, jnp.array(least))
      for way in ('thin_out', 'thin_out_lazily')
    ]
    np.testing.assert_array_equal(*ways)
    number = np.minimum(least, free.sum(axis=1))
    np.testing.assert_array_equal(ways[0].sum(axis=1), number)


def test_the_best_of_lines_is_the_first_of_the_highest():
  rng = np.random.default_rng(5)
  value = rng.integers(0, 4, size=(ROWS, WIDE)).astype(np.float32)
  value[:, 3] = np.nan
  among = rng.random((ROWS, WIDE)) < 0.8
  found = lines_lib.in_lines(value, among=among)
  number = among.sum(axis=1)
  for i in range(number.max()):
    slot = lines_lib.best(found)
    for row in np.flatnonzero(i < number):
      low = np.where(np.isnan(value[row]), -9, value[row])
      want = max(np.flatnonzero(among[row]), key=lambda n: (low[n], -n))
      assert slot[row] == want
      among[row, want] = False
    gone = jnp.full(ROWS, -jnp.inf)
    found = lines_lib.replace(found, slot, gone, where=i < number)
  np.testing.assert_array_equal(lines_lib.flat(found, WIDE), -np.inf)


def test_local_outliers_with_ties_are_those_of_a_loop():
  """Of two as far away the lower counts first; equal values are neighbours."""
  rng = np.random.default_rng(6)
  value = np.round(rng.exponential(size=(8, 40)) * 4).astype(np.float32)
  number = np.array([40, 30, 20, 12, 8, 5, 3, 2])
  free = np.arange(40) >= 40 - number[:, None]
  got = jax.jit(
    functools.partial(selectors.local_outliers, limit=40, neighbours=5)
  )(value, free=free)
  want = [
    (lof(np.sort(v[40 - n :]), 5) > 1.5).sum()
    for v, n in zip(value, number, strict=True)
  ]
  assert got.tolist() == want
  assert max(want) > 0
