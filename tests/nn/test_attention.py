"""Attention against a plain rewriting: masks, biases, empty rows, caches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn
from tokpress_jax.nn import attention as attention_lib

B, A, T, S, E = 2, 3, 4, 5, 6
RNG = np.random.default_rng(0)
Q, K, V = (RNG.normal(size=(B, A, n, E)).astype(np.float32) for n in (T, S, S))
PER_HEAD = RNG.random((B, A, T, S)) < 0.5
PER_HEAD[..., 0] = True
SOME_EMPTY = PER_HEAD & (RNG.random((B, A, T, 1)) < 0.5)
SOME_EMPTY[0, 0, 0] = False


def oracle(q, k, v, mask=None, bias=None, scale=None):
  """One query at a time, in float64."""
  scale = q.shape[-1] ** -0.5 if scale is None else scale
  shape = (*q.shape[:3], k.shape[2])
  mask = np.broadcast_to(True if mask is None else mask, shape)
  bias = np.broadcast_to(0.0 if bias is None else bias, shape)
  out = np.zeros((*shape[:3], v.shape[-1]))
  for b, a, t in np.ndindex(*shape[:3]):
    seen = np.flatnonzero(mask[b, a, t])
    if seen.size == 0:
      continue
    logits = np.float64(k[b, a, seen]) @ q[b, a, t] * scale
    weights = np.exp(logits + bias[b, a, t, seen])
    out[b, a, t] = weights @ v[b, a, seen] / weights.sum()
  return out


def as_cudnn_would(q, k, v, *, bias, scale, implementation):
  """XLA in cuDNN's place, which wants the whole bias in the queries' dtype."""
  assert implementation == 'cudnn'
  if bias is not None:
    assert bias.shape[2:] == (q.shape[1], k.shape[1]) and bias.dtype == q.dtype
    assert np.isfinite(bias).all()
  return FUSED(q, k, v, bias=bias, scale=scale, implementation='xla')


FUSED = jax.nn.dot_product_attention


@pytest.fixture(params=['whole', 'parts', 'cudnn'])
def way(request, monkeypatch):
  """All heads at once; two at a time as where logits exceed the cache; cuDNN.

  The third is stood in for: it shows what cuDNN is given, not what it does.
  """
  if request.param == 'cudnn':
    monkeypatch.setattr(jax.nn, 'dot_product_attention', as_cudnn_would)
  if request.param == 'parts':
    monkeypatch.setattr(attention_lib, '_CACHE', 2 * 4 * T * S)
    monkeypatch.setattr(jax, 'device_count', lambda: 1)
    assert attention_lib._parts((B, A, T, E), S) == 3
  return request.param


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'scale': 1.0},
    {'mask': PER_HEAD[0, 0]},  # [T, S]
    {'mask': PER_HEAD[:, :1, :1]},  # [B, 1, 1, S], as for padding
    {'mask': PER_HEAD},
    {'mask': SOME_EMPTY},
    {'bias': RNG.normal(size=(B, 1, 1, S))},
    {'bias': 40 * RNG.normal(size=(B, A, T, S)), 'mask': SOME_EMPTY},
  ],
  ids=lambda o: '-'.join(f'{k}{np.shape(v)}' for k, v in o.items()) or 'plain',
)
def test_attention_equals_oracle(options, way):
  kind = 'cudnn' if way == 'cudnn' else 'xla'
  got = nn.dot_product_attention(Q, K, V, **options, implementation=kind)
  np.testing.assert_allclose(got, oracle(Q, K, V, **options), atol=1e-5)


def test_parts_are_few_and_divide_the_heads(monkeypatch):
  count = lambda heads: attention_lib._parts((1, heads, 512, 64), 512)
  assert count(12) == 1  # With several devices a batch may be spread.
  monkeypatch.setattr(jax, 'device_count', lambda: 1)
  # Two heads of 512 x 512 float32 logits fit into 2 MiB.
  assert [count(n) for n in (1, 2, 3, 6, 7, 16)] == [1, 1, 3, 3, 7, 8]
  assert attention_lib._parts((1, 4, 4096, 64), 4096) == 4
  assert attention_lib._parts((8, 16, 1, 64), 680) == 1


def test_queries_that_see_nothing_give_zero_and_finite_gradients(way):
  del way

  def loss(q, k, v):
    out = nn.dot_product_attention(q, k, v, mask=SOME_EMPTY)
    return jnp.sum(jnp.square(out)), out

  grads, out = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(Q, K, V)
  empty = ~SOME_EMPTY.any(axis=-1)
  assert empty.any() and not empty.all()
  np.testing.assert_array_equal(np.asarray(out)[empty], 0)
  np.testing.assert_array_equal(np.asarray(grads[0])[empty], 0)
  assert all(np.isfinite(g).all() and np.any(g) for g in grads)


def test_what_is_masked_does_not_matter():
  mask = np.arange(S) < 3
  junk = np.where(mask[:, None], 0, 1e4).astype(np.float32)
  got = nn.dot_product_attention(Q, K + junk, V + junk, mask=mask[None])
  want = nn.dot_product_attention(Q, K[:, :, :3], V[:, :, :3])
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_bias_of_log_mass_counts_a_key_so_often():
  """Two equal keys weigh as much as one with the log of 2 added."""
  twice = np.array([0, 0, 1, 2])
  want = nn.dot_product_attention(Q, K[:, :, twice], V[:, :, twice])
  bias = np.log(np.array([2.0, 1.0, 1.0]))[None]
  got = nn.dot_product_attention(Q, K[:, :, :3], V[:, :, :3], bias=bias)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_bfloat16_is_kept_finite_and_near():
  q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in (100 * Q, K, V))
  got = nn.dot_product_attention(q, k, v, mask=SOME_EMPTY)
  assert got.dtype == jnp.bfloat16
  want = oracle(*(np.asarray(x, np.float64) for x in (q, k, v)), SOME_EMPTY)
  np.testing.assert_allclose(np.asarray(got, np.float64), want, atol=0.03)


@pytest.mark.parametrize('sizes', [(1, 1, 1), (1, 4, 9), (3,), (2, 1, 3)])
def test_block_causal_mask(sizes):
  want = np.zeros((sum(sizes),) * 2, bool)
  end = 0
  for size in sizes:
    want[end : end + size, : end + size] = True
    end += size
  np.testing.assert_array_equal(nn.block_causal_mask(sizes), want)


def test_cache_writes_its_slots_only():
  cache = nn.Cache.empty(B, A, 8, E, dtype=jnp.bfloat16)
  assert nn.Cache.empty(B, A, 8, E, layers=3).k.shape == (3, B, A, 8, E)
  cache = cache.append(K, V, 2)
  append = jax.jit(lambda cache, start: cache.append(Q, Q, start))
  cache = append(cache, jnp.int32(4))  # overwrites three of them
  want = np.zeros((B, A, 8, E), np.float32)
  want[:, :, 2:7] = V
  want[:, :, 4:8] = Q
  assert cache.v.dtype == jnp.bfloat16
  np.testing.assert_array_equal(cache.v, jnp.asarray(want, jnp.bfloat16))
  np.testing.assert_array_equal(
    cache.k[:, :, 2:4], jnp.asarray(K[:, :, :2], jnp.bfloat16)
  )


def make(**options):
  """An attention layer with redrawn parameters, and inputs."""
  config = nn.AttentionConfig(width=12, heads=2, **options)
  module = nn.Attention(config)
  x = jax.random.normal(jax.random.key(0), (B, T, 12))
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  rng = np.random.default_rng(1)
  params = jax.tree.map(
    lambda p: jnp.asarray(rng.normal(size=p.shape), jnp.float32) * 0.5, shapes
  )
  return config, module, params, x


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'bias': 'none', 'head_dim': 4},
    {'bias': 'qv', 'qk_norm': 'l2'},
    {'qk_norm': 'layer'},
    {'bias': 'none', 'qk_norm': 'rms'},
  ],
  ids=str,
)
def test_layer_equals_oracle(options):
  config, module, variables, x = make(**options)
  p = jax.tree.map(np.float64, variables['params'])
  heads, width = config.heads, config.features
  inner = heads * width
  assert ('bias' in p['qkv']) == (config.bias == 'all')
  qkv = np.float64(x) @ p['qkv']['kernel'] + p['qkv'].get('bias', 0)
  if config.bias == 'qv':  # no key bias
    qkv[..., :inner] += p['q_bias']
    qkv[..., 2 * inner :] += p['v_bias']
  q, k, v = (
    part.reshape(B, T, heads, width).transpose(0, 2, 1, 3)
    for part in np.split(qkv, 3, axis=-1)
  )
  scale = None
  if config.qk_norm == 'l2':
    unit = lambda y: y / np.linalg.norm(y, axis=-1, keepdims=True)
    q, k, scale = unit(q), unit(k), 1.0
    q = q * np.exp(p['log_scale'])[None, :, None, None]
  elif config.qk_norm:

    def norm(y, p):
      if config.qk_norm == 'layer':
        y = y - y.mean(-1, keepdims=True)
      y = y / np.sqrt(np.square(y).mean(-1, keepdims=True) + 1e-6)
      return y * p['scale'] + p.get('bias', 0)

    q, k = norm(q, p['q_norm']), norm(k, p['k_norm'])
  out = oracle(q, k, v, mask=PER_HEAD[0, 0, :, :T], scale=scale)
  out = out.transpose(0, 2, 1, 3).reshape(B, T, inner)
  want = out @ p['proj']['kernel'] + p['proj']['bias']
  got, cache = module.apply(variables, x, mask=PER_HEAD[0, 0, :, :T])
  assert cache is None
  np.testing.assert_allclose(got, want, atol=2e-5)


def test_l2_scale_is_capped_at_100():
  _, module, variables, x = make(qk_norm='l2')
  large = lambda value: {
    'params': {
      **variables['params'],
      'log_scale': jnp.full((2,), np.log(value), jnp.float32),
    }
  }
  out = [module.apply(large(s), x)[0] for s in (50.0, 100.0, 1000.0)]
  np.testing.assert_array_equal(out[1], out[2])
  assert np.abs(out[0] - out[1]).max() > 1e-4


def test_a_host_may_call_the_parts():
  _, module, variables, x = make()
  whole, _ = module.apply(variables, x)
  call = lambda method, *args: module.apply(variables, *args, method=method)
  qkv = call('project', x)
  parts = call('output', nn.dot_product_attention(*qkv))
  np.testing.assert_allclose(parts, whole, atol=1e-6)
  given, _ = module.apply(variables, x, projected=qkv)
  np.testing.assert_array_equal(given, whole)


def test_heads_must_divide_the_width():
  with pytest.raises(ValueError, match='width 10 is not divisible by 3 heads'):
    nn.AttentionConfig(width=10, heads=3)
  assert nn.AttentionConfig(width=10, heads=3, head_dim=8).features == 8
