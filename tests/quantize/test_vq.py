"""Codes, losses, moving averages and revival against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.quantize import VQConfig, perplexity, usage, vq
from tokpress_jax.quantize.base import CodebookStats
from tokpress_jax.quantize.codebook import update_codebook


def _data(tokens=200, codes=12, dim=5):
  rng = np.random.default_rng(0)
  z = rng.normal(size=(tokens, dim)).astype(np.float32)
  return z, rng.normal(size=(codes, dim)).astype(np.float32)


@pytest.mark.parametrize('distance', ['l2', 'cosine'])
def test_matches_numpy(distance):
  z, codebook = _data()
  mask = np.arange(200) % 3 > 0
  out = jax.jit(
    lambda z, e, m: vq(
      z, e, distance=distance, mask=m, commitment=0.5, codebook_weight=2.0
    )
  )(z, codebook, mask)
  z, codebook = np.float64(z), np.float64(codebook)
  if distance == 'cosine':
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    codebook /= np.linalg.norm(codebook, axis=1, keepdims=True)
  square = ((z[:, None] - codebook[None]) ** 2).sum(-1)
  codes = square.argmin(1)
  np.testing.assert_array_equal(out.codes[mask, 0], codes[mask])
  error = ((z - codebook[codes]) ** 2)[mask].mean()
  np.testing.assert_allclose(out.losses['commitment'], error / 2, rtol=1e-5)
  np.testing.assert_allclose(out.losses['codebook'], error * 2, rtol=1e-5)
  np.testing.assert_allclose(out.loss, error * 2.5, rtol=1e-5)
  for v in range(12):
    chosen = z[mask & (codes == v)]
    np.testing.assert_allclose(out.stats.count[v], len(chosen))
    np.testing.assert_allclose(out.stats.total[v], chosen.sum(0), atol=1e-4)
    np.testing.assert_allclose(
      out.stats.square[v], (chosen**2).sum(), rtol=1e-5
    )


def test_usage_and_perplexity():
  count = jnp.array([[3.0, 3.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
  np.testing.assert_allclose(usage(count), [0.5, 1.0])
  np.testing.assert_allclose(perplexity(count), [2.0, 4.0], rtol=1e-6)
  assert perplexity(jnp.zeros(4)) == 1.0


def _state(codebook):
  size = len(codebook)
  return {
    'codebook': jnp.asarray(codebook),
    'total': jnp.asarray(codebook),
    'weight': jnp.ones(size),
    'usage': jnp.ones(size),
  }


def test_moving_average_reaches_the_means_of_the_cells():
  z, codebook = _data()
  config = VQConfig(codebook_size=12, dim=5, learning='ema', decay=0.5)
  state = _state(codebook)
  stats = vq(z, codebook).stats
  update = jax.jit(lambda s: update_codebook(s, stats, config, rng=None))
  for _ in range(40):
    state = update(state)
  used = np.asarray(stats.count) > 0
  mean = stats.total[used] / stats.count[used][:, None]
  np.testing.assert_allclose(state['codebook'][used], mean, atol=1e-4)
  np.testing.assert_allclose(state['usage'], stats.count * 12 / 200, atol=1e-4)


@pytest.mark.parametrize('learning', ['gradient', 'ema'])
def test_revival_spreads_a_collapsed_codebook(learning):
  z, codebook = _data(tokens=2000, codes=32)
  codebook[1:] += 100.0  # All tokens choose code 0.
  config = VQConfig(
    codebook_size=32, dim=5, learning=learning, revive_below=0.1, decay=0.9
  )

  @jax.jit
  def step(state, rng):
    out = vq(z, state['codebook'])
    return update_codebook(state, out.stats, config, rng=rng), out

  state = _state(codebook)
  if learning == 'gradient':
    state = {k: state[k] for k in ('codebook', 'usage')}
  before = step(state, jax.random.key(0))[1]
  assert usage(before.stats.count) == 1 / 32
  for i in range(60):
    state, out = step(state, jax.random.key(i))
  assert usage(out.stats.count) == 1.0
  assert perplexity(out.stats.count) > 16
  assert out.losses['commitment'] < before.losses['commitment'] / 3


def test_revival_shares_the_donors_usage_and_leaves_the_rest():
  codebook = np.arange(8, dtype=np.float32).reshape(4, 2)
  config = VQConfig(codebook_size=4, dim=2, revive_below=0.2, decay=0.0)
  stats = CodebookStats(
    count=jnp.array([30.0, 10.0, 0.0, 0.0]),
    total=jnp.array([[60.0, 30.0], [10.0, 10.0], [0.0, 0.0], [0.0, 0.0]]),
    square=jnp.array([30 * 5.0 + 60.0, 20.0, 0.0, 0.0]),
  )
  state = {'codebook': jnp.asarray(codebook), 'usage': jnp.ones(4)}
  update = jax.jit(lambda key: update_codebook(state, stats, config, rng=key))
  new = update(jax.random.key(0))
  np.testing.assert_array_equal(new['codebook'][:2], codebook[:2])
  np.testing.assert_allclose(new['usage'], [1.5, 0.5, 1.5, 0.5])
  # Code 2 lies about the mean (2, 1) of code 0's tokens, code 3 about (1, 1).
  assert np.linalg.norm(new['codebook'][2] - np.array([2, 1])) < 5
  many = jax.vmap(lambda key: update(key)['codebook'][2])(
    jax.random.split(jax.random.key(1), 4000)
  )
  np.testing.assert_allclose(many.mean(0), [2, 1], atol=0.1)
  np.testing.assert_allclose(many.var(0), [1, 1], rtol=0.1)  # 60 / 30 / 2.


def test_update_finds_the_quantiser_by_its_path():
  config = VQConfig(codebook_size=4, dim=2, revive_below=0.2)
  inner = config.build().init(jax.random.key(0), jnp.zeros((1, 2)))
  variables = {k: {'model': {'quantizer': v}} for k, v in inner.items()}
  stats = vq(jnp.ones((5, 2)), inner['params']['codebook']).stats
  path = ('model', 'quantizer')
  new = config.update(variables, stats, rng=jax.random.key(0), path=path)
  used = np.asarray(stats.count) > 0
  moved = new['codebook']['model']['quantizer']['usage']
  assert moved[used] > 1 and (moved[~used] < 1).all()
  with pytest.raises(ValueError, match=r"'quantizer' is not one of.*'model'"):
    config.update(variables, stats, rng=jax.random.key(0), path=path[1:])


def test_released_weights_need_no_statistics():
  config = VQConfig(codebook_size=4, dim=2)
  params = {'codebook': jnp.eye(4, 2)}
  out = config.build().apply({'params': params}, jnp.ones((3, 2)))
  assert out.codes.shape == (3, 1)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'distance': 'cos'}, "distance='cos' is not one of"),
    ({'learning': 'sgd'}, "learning='sgd' is not one of"),
    ({'codebook_size': 0}, 'codebook_size >= 1'),
  ],
)
def test_bad_config(fields, message):
  with pytest.raises(ValueError, match=message):
    VQConfig(**fields)
