"""Scores from vectors, change, fixed ones and combinations, against loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from padded import Parts

from tokpress_jax.pruners import scores


def draw(rng, n):
  normal = lambda *s: rng.normal(size=s).astype(np.float32)
  return {
    'x': normal(n, 6),
    'y': normal(n, 6),
    'heads': normal(4, n),
    's': normal(n),
    'seed': np.uint32(rng.integers(1000)),
    'sketch': normal(6, 3),
    'matrix': normal(6, 5),
  }


AXES = {'x': 'ND', 'y': 'ND', 'heads': 'AN', 's': 'N'}


def keys(i):
  return jax.vmap(jax.random.key)(i['seed'])


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def leverage_oracle(x, sketch=None, ridge=1e-2):
  x = x.astype(np.float64) - x.astype(np.float64).mean(0)
  x = x if sketch is None else x @ sketch
  gram = x.T @ x + ridge * np.eye(x.shape[1])
  score = np.array([v @ np.linalg.inv(gram) @ v for v in x])
  return (score - score.mean()) / score.std()


def transition_oracle(x, y, **_):
  turned = np.exp(1 - (unit(x) * unit(y)).sum(-1))
  length = np.linalg.norm(y, axis=-1) / np.linalg.norm(x, axis=-1)
  return length * turned / turned.sum()


def sensitivity_oracle(x, matrix, seed, **_):
  """The projector is tanh(x W); its Jacobian is written out."""
  bank = jax.random.normal(jax.random.key(int(seed)), (8, 6))
  out = np.zeros(len(x))
  for u in unit(np.asarray(bank, np.float64)):
    for n, v in enumerate(x.astype(np.float64)):
      slope = (1 - np.tanh(v @ matrix) ** 2) * (u @ matrix)
      out[n] += np.linalg.norm(slope) / 8
  return out


def project(i):
  return lambda x: jnp.tanh(
    jnp.einsum('bnd,bde->bne', x, i['matrix'], precision='highest')
  )


NORMS = {
  'l1': lambda s: s / np.abs(s).sum(),
  'l2': lambda s: s / np.sqrt((s**2).sum()),
  'minmax': lambda s: (s - s.min()) / (s.max() - s.min()),
  'zscore': lambda s: (s - s.mean()) / s.std(),
  'softmax': lambda s: np.exp(s / 10) / np.exp(s / 10).sum(),
  'rank': lambda s: np.array([(s < v).sum() for v in s]) / (len(s) - 1),
}


def pool_oracle(heads, by, **_):
  fill = 0 if by == 'mean' else -np.inf
  wide = np.pad(heads, ((0, 0), (2, 2)), constant_values=fill)
  near = [wide[:, i : i + 5] for i in range(heads.shape[1])]
  return np.stack([getattr(v, by)(-1) for v in near], axis=1)


def noise(seed, n, kind):
  return np.asarray(getattr(jax.random, kind)(jax.random.key(int(seed)), (n,)))


def soft(i, count=2):
  return scores.soft_top(i['s'], count=count, valid=i['valid'], temperature=0.5)


def soft_oracle(s, count=2, **_):
  low, high, x = -100.0, 100.0, s.astype(np.float64) / 0.5
  for _ in range(200):
    t = (low + high) / 2
    w = 1 / (1 + np.exp(-x - t))
    low, high = (t, high) if w.sum() < count else (low, t)
  return w


def soft_slope(i):
  """Of what the first score gives to all weights, weighted 0, 1, 2, ..."""
  at = jnp.where(i['valid'], jnp.cumsum(i['valid'], 1) - 1.0, 0)
  return jax.grad(lambda s: (soft({**i, 's': s}) * at).sum())(i['s'])


def soft_slope_oracle(s, **_):
  at = np.arange(len(s))
  out = np.zeros(len(s))
  for n in range(len(s)):
    step = np.zeros(len(s))
    step[n] = 1e-5
    s = s.astype(np.float64)
    out[n] = (soft_oracle(s + step) - soft_oracle(s - step)) @ at / 2e-5
  return out


CASES = {
  'norm-1': (
    lambda i: scores.norm(i['x'], order=1),
    lambda x, **_: np.abs(x).sum(-1),
  ),
  'norm-2': (
    lambda i: scores.norm(i['x']),
    lambda x, **_: np.sqrt((x**2).sum(-1)),
  ),
  'key-difference': (
    lambda i: scores.key_difference(i['x'], valid=i['valid']),
    lambda x, **_: -unit(x) @ unit(unit(x).mean(0)),
  ),
  'leverage': (
    lambda i: scores.leverage(i['x'], valid=i['valid'], ridge=1.0),
    lambda x, **_: leverage_oracle(x, ridge=1.0),
  ),
  'transition': (
    lambda i: scores.transition(i['x'], i['y'], among=i['valid']),
    transition_oracle,
  ),
  'zeroth-order': (
    lambda i: scores.zeroth_order(
      project(i), i['x'], rng=keys(i), directions=8
    ),
    sensitivity_oracle,
  ),
  'random': (
    lambda i: scores.random(keys(i), i['valid']),
    lambda s, seed, **_: noise(seed, len(s), 'uniform'),
  ),
  'stride': (
    lambda i: scores.stride(i['valid'], step=3, first=1),
    lambda s, **_: (np.arange(len(s)) % 3 == 1).astype(float),
  ),
  'recency': (
    lambda i: scores.recency(i['valid']),
    lambda s, **_: np.arange(len(s)),
  ),
  'sinks': (
    lambda i: scores.sinks(i['valid'], count=3),
    lambda **_: [0, 1, 2],
  ),
  **{
    f'normalise-{by}': (
      lambda i, by=by: scores.normalise(
        i['s'], valid=i['valid'], by=by, temperature=10
      ),
      lambda s, by=by, **_: NORMS[by](s),
    )
    for by in NORMS
  },
  'normalise-heads': (
    lambda i: scores.normalise(
      i['heads'], valid=jnp.repeat(i['valid'][:, None], 4, 1), by='rank'
    ),
    lambda heads, **_: np.stack([NORMS['rank'](s) for s in heads]),
  ),
  **{
    f'pool-{by}': (
      lambda i, by=by: scores.pool(
        i['heads'],
        valid=jnp.repeat(i['valid'][:, None], 4, 1),
        width=5,
        by=by,
      ),
      lambda heads, by=by, **_: pool_oracle(heads, by),
    )
    for by in ('mean', 'max')
  },
  'groups': (
    lambda i: scores.group_reduce(i['heads'], groups=2, by='max'),
    lambda heads, **_: np.stack([heads[:2].max(0), heads[2:].max(0)]),
  ),
  'ema': (
    lambda i: scores.ema(
      scores.ema(None, i['s'], decay=0.9), i['x'][..., 0], decay=0.9
    ),
    lambda s, x, **_: 0.9 * s + 0.1 * x[:, 0],
  ),
  'perturb': (
    lambda i: scores.perturb(i['s'], rng=keys(i), valid=i['valid'], scale=0.5),
    lambda s, seed, **_: s + 0.5 * noise(seed, len(s), 'gumbel'),
  ),
  'binary-concrete': (
    lambda i: scores.binary_concrete(
      i['s'], rng=keys(i), valid=i['valid'], temperature=0.4
    ),
    lambda s, seed, **_: (
      1 / (1 + np.exp(-(s + noise(seed, len(s), 'logistic')) / 0.4))
    ),
  ),
  'soft-top': (soft, soft_oracle),
  'soft-top-slope': (soft_slope, soft_slope_oracle),
}
LOOSE = {'zeroth-order': 1e-3, 'soft-top-slope': 1e-4}
PARTS = Parts({name: part for name, (part, _) in CASES.items()}, draw, AXES)


@pytest.mark.parametrize('name', CASES)
def test_part(name):
  PARTS.check(name, CASES[name][1], atol=LOOSE.get(name, 1e-5))


def test_leverage_of_a_sketch():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 9, 6)).astype(np.float32)
  sketch = rng.normal(size=(6, 3)).astype(np.float32)
  got = scores.leverage(x, valid=jnp.ones((1, 9), bool), sketch=sketch)
  np.testing.assert_allclose(got[0], leverage_oracle(x[0], sketch), atol=1e-4)


def test_soft_top_sums_to_the_count_and_hardens():
  s = jnp.array([[3.0, -1.0, 0.5, 2.0, 9.0, 9.0]])
  valid = jnp.arange(6)[None] < 4
  for count in (1, 2.5, 3):
    assert scores.soft_top(s, count=count, valid=valid).sum() == pytest.approx(
      count, abs=1e-4
    )
  hard = scores.soft_top(s, count=2, valid=valid, temperature=0.01)
  np.testing.assert_allclose(hard[0], [1, 0, 0, 1, 0, 0], atol=1e-6)
  whole = scores.soft_top(s, count=4, valid=valid)
  np.testing.assert_allclose(whole[0], [1, 1, 1, 1, 0, 0], atol=1e-3)


def test_soft_top_of_a_row_without_tokens_is_nothing_and_learns_nothing():
  valid = jnp.array([[True, True, True], [False, False, False]])
  weigh = lambda s: scores.soft_top(s, count=jnp.array([1, 0]), valid=valid)
  s = jnp.array([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
  np.testing.assert_array_equal(weigh(s)[1], 0)
  slope = jax.grad(lambda s: (weigh(s) ** 2).sum())(s)
  np.testing.assert_array_equal(slope[1], 0)
  assert (slope[0] != 0).all()


def test_straight_through_has_a_hard_value_and_a_soft_gradient():
  def loss(s):
    soft = jax.nn.sigmoid(s)
    return (scores.straight_through(s > 0, soft) * jnp.arange(3)).sum()

  s = jnp.array([2.0, -1.0, 0.5])
  value, slope = jax.value_and_grad(loss)(s)
  assert value == 2
  gate = jax.nn.sigmoid(s)
  np.testing.assert_allclose(slope, gate * (1 - gate) * jnp.arange(3))


def test_gates_open_as_often_as_they_should():
  logits = jnp.broadcast_to(jnp.array([-1.0, 0.0, 2.0]), (2000, 3))
  keys = jax.random.split(jax.random.key(0), 2000)
  gate = scores.binary_concrete(
    logits, rng=keys, valid=jnp.ones((2000, 3), bool), temperature=0.3
  )
  np.testing.assert_allclose(
    (gate > 0.5).mean(0), jax.nn.sigmoid(logits[0]), atol=0.04
  )


def test_temporal_change():
  frames = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype('f')
  x = frames.reshape(2, 12, 5)
  got = scores.temporal_change(x, frames=3).reshape(2, 3, 4)
  assert np.isinf(got[:, 0]).all()
  for b, t, s in np.ndindex(2, 2, 4):
    a, c = unit(frames[b, t, s]), unit(frames[b, t + 1, s])
    assert got[b, t + 1, s] == pytest.approx(1 - a @ c, abs=1e-5)
  got = scores.temporal_change(x, frames=3, measure='absolute')
  want = np.abs(frames[:, 1:] - frames[:, :-1]).mean(-1)
  np.testing.assert_allclose(
    got.reshape(2, 3, 4)[:, 1:], want, rtol=1e-5, atol=1e-6
  )


def test_change_is_from_the_frame_before_dropped_or_not():
  slow = jnp.array([[0.0], [0.4], [0.8], [0.8]])[None]
  got = scores.temporal_change(slow, frames=4, measure='absolute')
  np.testing.assert_allclose(got[0, 1:], [0.4, 0.4, 0], atol=1e-6)


def test_window_similarity():
  x = np.random.default_rng(0).normal(size=(1, 35, 5)).astype(np.float32)
  valid = np.ones((1, 35), bool)
  valid[0, 15] = False  # row 2, column 1: the first window
  grid = unit(x[0]).reshape(5, 7, 5)
  got = scores.window_similarity(x, grid=(5, 7), valid=valid)
  assert got.shape == (1, 1, 2)
  assert got[0, 0, 0] == -np.inf
  tokens = grid[:3, 3:6].reshape(9, 5)
  pairs = [tokens[i] @ tokens[j] for i in range(9) for j in range(9) if i != j]
  assert got[0, 0, 1] == pytest.approx(np.mean(pairs), abs=1e-5)


def test_equal_scores_are_normalised_without_nan():
  same = jnp.full((1, 3), 0.7)
  valid = jnp.array([[True, True, False]])
  for by, want in (('minmax', 0), ('zscore', 0), ('softmax', 0.5), ('l1', 0.5)):
    got = scores.normalise(same, valid=valid, by=by)[0].tolist()
    np.testing.assert_allclose(got, [want, want, 0], atol=1e-6)
  got = scores.normalise(same, valid=jnp.zeros((1, 3), bool), by='softmax')
  assert got[0].tolist() == [0, 0, 0]
  # Equal scores rank by slot; eps is added to what is divided by.
  got = scores.normalise(same, valid=valid, by='rank')
  assert got[0].tolist() == [1, 0, 0]
  got = scores.normalise(same, valid=valid, by='l1', eps=0.6)
  np.testing.assert_allclose(got[0], [0.35, 0.35, 0], rtol=1e-6)


def test_protect_and_forbid():
  s = jnp.array([[1.0, 2.0, 3.0]])
  mask = jnp.array([[True, False, False]])
  assert scores.protect(s, mask)[0].tolist() == [np.inf, 2, 3]
  assert scores.forbid(s, mask)[0].tolist() == [-np.inf, 2, 3]


def test_gumbel_top_draws_in_proportion():
  p = jnp.array([0.6, 0.3, 0.1])
  keys = jax.random.split(jax.random.key(3), 3000)
  noisy = scores.perturb(
    jnp.broadcast_to(jnp.log(p), (3000, 3)),
    rng=keys,
    valid=jnp.ones((3000, 3), bool),
  )
  share = np.bincount(np.asarray(noisy.argmax(1)), minlength=3) / 3000
  np.testing.assert_allclose(share, p, atol=0.03)


@pytest.mark.parametrize(
  ('call', 'said'),
  [
    (lambda x, v: scores.temporal_change(x, frames=4), '6 slots .* 4 equal'),
    (
      lambda x, v: scores.temporal_change(x, frames=2, measure='l3'),
      "got 'l3'",
    ),
    (lambda x, v: scores.window_similarity(x, grid=(2, 4), valid=v), '2, 4'),
    (lambda x, v: scores.normalise(x[..., 0], valid=v, by='max'), "'max'"),
    (lambda x, v: scores.pool(x[..., 0], valid=v, width=4), 'odd width'),
    (lambda x, v: scores.group_reduce(x, groups=4), '6 heads .* 4 equal'),
    (lambda x, v: scores.stride(v, step=0), 'stride of 0'),
  ],
)
def test_bad_input_is_said(call, said):
  with pytest.raises(ValueError, match=said):
    call(jnp.ones((1, 6, 3)), jnp.ones((1, 6), bool))
