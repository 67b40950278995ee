"""TokenLearner against NumPy, and what padding and protection do to it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.types import Tokens

B, H, W, D, S = 3, 4, 5, 6, 2
LENGTHS = (20, 11, 16)
every = pytest.mark.parametrize('name', ['mlp', 'conv', 'conv_mean'])
MODULES = {
  'mlp': pruners.TokenLearner(tokens=S, bottleneck=8),
  'conv': pruners.TokenLearnerConv(tokens=S, grid=(H, W)),
  'conv_mean': pruners.TokenLearnerConv(
    tokens=S, grid=(H, W), pooling='mean', positions='keep'
  ),
}


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def make(lengths=None, *, protected=0):
  slots = H * W + protected
  at = np.arange(slots)[None]
  valid = np.ones((B, slots), bool)
  if lengths is not None:
    valid = at < np.array(lengths)[:, None] + protected
  return Tokens.create(
    jnp.asarray(draw(B, slots, D)),
    valid=jnp.asarray(valid),
    protected=jnp.asarray(np.broadcast_to(at < protected, valid.shape)),
    num_protected=protected,
  )


@functools.cache
def weights(name):
  """Redrawn: a fresh fuser gives 0."""
  module = MODULES[name]
  shapes = jax.eval_shape(module.init, jax.random.key(0), make())
  leaves, tree = jax.tree.flatten(shapes)
  return jax.tree.unflatten(
    tree, [0.5 * draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
  )


@functools.cache
def program(name):
  return jax.jit(MODULES[name].apply)


def normed(x, p):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * p['scale'] + p['bias']


def gelu(x):
  inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + np.tanh(inner))


def dense(x, p):
  return x @ p['kernel'] + p['bias']


def mlp(x, p):
  return dense(gelu(dense(normed(x, p['norm']), p['mask_in'])), p['mask_out'])


def conv(x, kernel):
  """3 x 3, of an image with zeros around it."""
  padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  out = np.zeros((*x.shape[:2], kernel.shape[-1]))
  for i, j in np.ndindex(3, 3):
    out += padded[i : i + x.shape[0], j : j + x.shape[1]] @ kernel[i, j]
  return out


def oracle(name, x):
  """Learned tokens [S, D] of one image's tokens [n, D]."""
  p = weights(name)['params']
  if name == 'mlp':
    return special.softmax(mlp(x, p), axis=0).T @ x
  y = normed(x, p['norm']).reshape(H, W, D)
  for i in range(4):
    y = conv(y if i == 0 else gelu(y), p[f'conv_{i}']['kernel'])
  maps = special.expit(y).reshape(H * W, S).T
  return maps @ x / (H * W if name == 'conv_mean' else 1)


@every
def test_learned_tokens_are_the_weighted_sums(name):
  tokens = make()
  out, result = program(name)(weights(name), tokens)
  want = np.stack([oracle(name, np.float64(x)) for x in tokens.features])
  np.testing.assert_allclose(out.features, want, atol=1e-5)
  assert out.valid.all()
  again = pruners.apply(result, tokens.features, mode='sum')
  np.testing.assert_allclose(again, want, atol=1e-5)
  maps = np.asarray(result.assign.matrix)
  np.testing.assert_array_equal(result.index, maps.argmax(2))


@every
def test_protected_tokens_stay_in_front(name):
  tokens = make(protected=1)
  out, _ = program(name)(weights(name), tokens)
  np.testing.assert_array_equal(out.features[:, 0], tokens.features[:, 0])
  assert out.protected[:, 0].all() and not out.protected[:, 1:].any()
  want = [oracle(name, np.float64(x)) for x in tokens.features[:, 1:]]
  np.testing.assert_allclose(out.features[:, 1:], want, atol=1e-5)


def test_a_padded_row_is_that_row_alone():
  tokens = make(LENGTHS)
  junk = jnp.where(tokens.valid[..., None], tokens.features, 1e4)
  out, _ = program('mlp')(weights('mlp'), tokens.replace(features=junk))
  for row, n in enumerate(LENGTHS):
    want = oracle('mlp', np.float64(tokens.features[row, :n]))
    np.testing.assert_allclose(out.features[row], want, atol=1e-5)


def test_the_mean_position_of_a_map():
  tokens = make(LENGTHS)
  out, result = program('mlp')(weights('mlp'), tokens)
  maps = np.asarray(result.assign.matrix)
  want = maps @ np.asarray(tokens.positions, np.float32)
  np.testing.assert_allclose(out.positions, want, atol=1e-4)


def test_padding_is_nothing_to_convolutions():
  tokens = make(LENGTHS)
  junk = jnp.where(tokens.valid[..., None], tokens.features, 1e4)
  a, _ = program('conv')(weights('conv'), tokens)
  b, _ = program('conv')(weights('conv'), tokens.replace(features=junk))
  np.testing.assert_allclose(a.features, b.features, atol=1e-5)


@every
def test_gradients_reach_every_parameter(name):
  tokens = make(LENGTHS)

  @jax.jit
  def loss(variables, features):
    out, _ = MODULES[name].apply(variables, tokens.replace(features=features))
    return jnp.sum(out.features * draw(B, S, D, seed=3))

  found = jax.grad(loss, argnums=(0, 1))(weights(name), tokens.features)
  for path, leaf in jax.tree.leaves_with_path(found):
    constant = name == 'mlp' and 'mask_out' in str(path) and 'bias' in str(path)
    # A bias of all logits moves no softmax.
    assert constant or np.abs(leaf).max() > 1e-6, path


def test_fuser_is_the_official_formula_and_starts_at_nothing():
  module = pruners.TokenFuser(bottleneck=8)
  learned, original = draw(B, S, D, seed=1), draw(B, H * W, D, seed=2)
  fresh = jax.jit(module.init)(jax.random.key(0), learned, original)
  assert np.abs(module.apply(fresh, learned, original)).max() == 0
  p = jax.tree.map(lambda x: 0.5 * draw(*x.shape, seed=x.size), fresh)['params']
  y = normed(learned, p['norm_in']).swapaxes(1, 2)
  y = normed(dense(y, p['mix']).swapaxes(1, 2), p['norm_mixed'])
  want = special.expit(mlp(original, p)) @ y
  got = jax.jit(module.apply)({'params': p}, learned, original)
  np.testing.assert_allclose(got, want, atol=1e-5)


def test_what_cannot_be_asked_is_refused():
  with pytest.raises(UserError, match='at least 1 learned token'):
    pruners.TokenLearner(tokens=0).init(jax.random.key(0), make())
  wrong = pruners.TokenLearnerConv(tokens=S, grid=(H, W + 1))
  with pytest.raises(UserError, match='24 tokens, and 20 were given'):
    wrong.init(jax.random.key(0), make())
  broken = make().replace(features=jnp.full((B, H * W, D), jnp.nan))
  with pytest.raises(UserError, match='NaN'):
    MODULES['mlp'].apply(weights('mlp'), broken)


def test_it_is_a_pruner():
  assert isinstance(MODULES['mlp'], pruners.PrunerProtocol)
