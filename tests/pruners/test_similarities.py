"""Similarities against loops: all pairs, and a row per pick."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from padded import Parts

from tokpress_jax.pruners import similarities as sim


def draw(rng, n):
  return {
    'x': rng.normal(size=(n, 6)).astype(np.float32),
    'keys': rng.normal(size=(3, n, 4)).astype(np.float32),
    'text': rng.normal(size=n).astype(np.float32),
    'places': rng.integers(0, 9, size=(n, 2)).astype(np.float32),
    'pick': np.int32(rng.integers(n)),
  }


def cos(a, b):
  return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def fused(i):
  at = i['pick']
  scale = sim.reach(i['places'], at, among=i['valid'])
  return sim.mixture(
    [
      (0.3, sim.distance_rows(i['places'], scale=scale)),
      (0.7, sim.complement(sim.cosine_rows(i['x']))),
    ]
  )(at)


def fused_oracle(x, places, pick, **_):
  far = [np.linalg.norm(p - places[pick]) for p in places]
  return [
    0.3 * d / max(far) + 0.7 * (1 - cos(v, x[pick]))
    for d, v in zip(far, x, strict=True)
  ]


def nearest_oracle(x, **_):
  n = len(x)
  return np.array(
    [max(cos(x[i], x[j]) for j in range(n) if j != i) for i in range(n)]
  )


CASES = {
  'cosine': (
    lambda i: sim.cosine(i['x']),
    lambda x, **_: np.array([[cos(a, b) for b in x] for a in x]),
  ),
  'cosine-of-joined-heads': (
    lambda i: sim.cosine(sim.join_heads(i['keys'])),
    lambda keys, **_: np.array(
      [
        [cos(np.concatenate(a), np.concatenate(b)) for b in keys.swapaxes(0, 1)]
        for a in keys.swapaxes(0, 1)
      ]
    ),
  ),
  'row-of-mean-heads': (
    lambda i: sim.cosine_rows(sim.mean_heads(i['keys']))(i['pick']),
    lambda keys, pick, **_: np.array(
      [cos(k, keys.mean(0)[pick]) for k in keys.mean(0)]
    ),
  ),
  'scaled-distance': (
    lambda i: sim.scaled_distance(i['x']),
    lambda x, **_: np.array(
      [[np.linalg.norm(a - b) / np.sqrt(6) for b in x] for a in x]
    ),
  ),
  'row-of-distances': (
    lambda i: sim.distance_rows(i['x'], scale=6**0.5)(i['pick']),
    lambda x, pick, **_: np.array(
      [np.linalg.norm(a - x[pick]) / np.sqrt(6) for a in x]
    ),
  ),
  'nearest-other': (
    lambda i: sim.nearest_other(sim.cosine(i['x']), i['valid']),
    nearest_oracle,
  ),
  'fused': (fused, lambda **row: np.array(fused_oracle(**row))),
  'with-text': (
    lambda i: sim.with_text(
      sim.gram_rows(sim.cosine(i['x'])), i['text'], weight=50
    )(i['pick']),
    lambda x, text, pick, **_: np.array(
      [cos(a, x[pick]) + 50 * t for a, t in zip(x, text, strict=True)]
    ),
  ),
}
PARTS = Parts(
  {name: part for name, (part, _) in CASES.items()},
  draw,
  {'x': 'ND', 'keys': 'AND', 'text': 'N', 'places': 'NP', 'pick': 'slot'},
)


@pytest.mark.parametrize('name', CASES)
def test_part(name):
  PARTS.check(name, CASES[name][1])


def test_many_picks_read_the_same_rows():
  x = np.random.default_rng(0).normal(size=(2, 11, 5)).astype(np.float32)
  pick = jnp.array([3, 10])
  want = np.asarray(sim.cosine(x))[np.arange(2), pick]
  for picks in (1, 11):
    got = sim.cosine_rows(x, picks=picks)(pick)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_near_tokens_far_from_zero_keep_their_distance():
  x = jnp.array([[[1000.0, 0.0], [1000.0, 1e-3], [1000.0, 3e-3]]])
  got = sim.scaled_distance(x)[0] * np.sqrt(2)
  want = np.array([[0, 1, 3], [1, 0, 2], [3, 2, 0]]) * 1e-3
  np.testing.assert_allclose(got, want, atol=1e-7)


@pytest.mark.parametrize('own', [True, False])
def test_distances_of_large_inputs_are_right_where_tokens_are_near(own):
  rng = np.random.default_rng(0)
  x = 3 + rng.normal(size=(2, 64, 4096)).astype(np.float32)
  x[0, 7] = x[0, 3] + 1e-3 * rng.normal(size=4096)
  x[1, 60] = x[1, 2]
  assert x[0].size * 64 >= sim._FEW  # The product, not differences.
  y = None if own else jnp.asarray(x[:, :60] + np.float32(1e-4))
  got = jax.jit(sim.scaled_distance)(jnp.asarray(x), y)
  other = x if own else np.asarray(y)
  wide = x.astype(np.float64)[:, :, None] - other[:, None]
  want = np.sqrt(np.square(wide).mean(axis=-1))
  np.testing.assert_allclose(got, want, rtol=1e-4)
  if own:
    assert got[1, 60, 2] == got[1, 2, 60] == 0
    np.testing.assert_array_equal(got, jnp.swapaxes(got, 1, 2))


def test_many_tokens_have_all_products_made_once():
  x = np.random.default_rng(0).normal(size=(2, 1030, 3)).astype(np.float32)
  got = jax.jit(sim.own_products)(x)
  np.testing.assert_allclose(got, x @ x.swapaxes(1, 2), atol=1e-5)
  away = np.abs(np.subtract.outer(np.arange(1030), np.arange(1030))) > 300
  same = np.swapaxes(got, 1, 2)
  np.testing.assert_array_equal(got[:, away], same[:, away])


def test_places_that_coincide_have_reach_one():
  same = jnp.ones((1, 4, 2))
  assert sim.reach(same, jnp.array([2]), among=jnp.ones((1, 4), bool))[0] == 1


def test_an_empty_mixture_is_refused():
  with pytest.raises(ValueError, match=r'at least one \(weight, rows\)'):
    sim.mixture([])
