"""Blocks against a plain rewriting; stacks against blocks; caches; noise."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn

B, D, L = 2, 8, 3
SIZES = (1, 2, 3)  # of the blocks of tokens
T = sum(SIZES)
MASK = nn.block_causal_mask(SIZES)
BLOCK = nn.BlockConfig(width=D, heads=2)
ADALN = nn.BlockConfig(
  width=D,
  heads=2,
  norm_affine=False,
  bias='qv',
  qk_norm='l2',
  modulation='block',
)
SHARED = nn.BlockConfig(
  width=D, heads=2, norm='rms', activation='swiglu', modulation='shared'
)
X = jax.random.normal(jax.random.key(0), (B, T, D))
COND = {
  None: None,
  'block': jax.random.normal(jax.random.key(1), (B, D)),
  'shared': jax.random.normal(jax.random.key(1), (B, 6, D)),
}


def redraw(module, x, seed=0, **kwargs):
  """Parameters of which each one matters: no zeros, no closed gates."""
  init = functools.partial(module.init, **kwargs)
  shapes = jax.eval_shape(init, jax.random.key(0), x)
  rng = np.random.default_rng(seed)

  def draw(p):
    scale = 0.3 if p.ndim < 2 else p.shape[-2] ** -0.5
    return jnp.asarray(rng.normal(size=p.shape) * scale, jnp.float32)

  return jax.tree.map(draw, shapes)


def norm(x, p, config):
  if config.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + config.norm_eps)
  return x * p.get('scale', 1) + p.get('bias', 0)


def mlp(x, p, config):
  dense = lambda x, p: x @ p['kernel'] + p['bias']
  y = dense(x, p['fc1'])
  erf = np.vectorize(math.erf)
  y = {
    'relu': lambda y: np.maximum(y, 0),
    'gelu': lambda y: y * (1 + erf(y / 2**0.5)) / 2,
    'gelu_tanh': lambda y: (
      y * (1 + np.tanh((2 / np.pi) ** 0.5 * (y + 0.044715 * y**3))) / 2
    ),
    'swiglu': lambda y: y / (1 + np.exp(-y)) * dense(x, p.get('gate')),
  }[config.activation](y)
  return dense(y, p['fc2'])


def modulation(p, cond, config):
  """gate1, gate2, scale1, scale2, shift1, shift2, each [B, 1 or T, D]."""
  if config.modulation == 'block':
    cond = cond if cond.ndim == 3 else cond[:, None]
    six = cond / (1 + np.exp(-cond)) @ p['ada']['kernel'] + p['ada']['bias']
    return np.split(six, 6, axis=-1)
  if config.modulation == 'shared':
    six = cond + p['ada_offset']
    return [six[:, i : i + 1] for i in range(6)]
  return 1, 1, 0, 0, 0, 0


def block(x, params, config, cond=None, mask=MASK):
  """The block in NumPy; attention has a test of its own."""
  p = jax.tree.map(np.float64, params)
  x = np.float64(x)
  cond = None if cond is None else np.float64(cond)
  gate1, gate2, scale1, scale2, shift1, shift2 = modulation(p, cond, config)
  y = norm(x, p.get('norm1', {}), config) * (1 + scale1) + shift1
  attention = nn.Attention(config.attention)
  y, _ = attention.apply({'params': params['attn']}, jnp.float32(y), mask=mask)
  x = x + gate1 * np.float64(y)
  y = norm(x, p.get('norm2', {}), config) * (1 + scale2) + shift2
  return x + gate2 * mlp(y, p['mlp'], config)


@pytest.mark.parametrize(
  'config',
  [
    BLOCK,
    nn.BlockConfig(width=D, heads=2, activation='relu', mlp_ratio=1.5),
    nn.BlockConfig(width=D, heads=2, activation='gelu_tanh', norm_eps=0.1),
    ADALN,
    SHARED,
  ],
  ids=['plain', 'relu', 'tanh', 'adaln_block', 'adaln_shared'],
)
def test_block_equals_oracle(config):
  module, cond = nn.Block(config), COND[config.modulation]
  variables = redraw(module, X, cond=cond)
  got, cache = module.apply(variables, X, cond=cond, mask=MASK)
  assert cache is None
  want = block(X, variables['params'], config, cond)
  np.testing.assert_allclose(got, want, atol=3e-5)


def test_condition_may_differ_by_position():
  module = nn.Block(ADALN)
  cond = jax.random.normal(jax.random.key(2), (B, T, D))
  variables = redraw(module, X, cond=COND['block'])
  got, _ = module.apply(variables, X, cond=cond, mask=MASK)
  want = block(X, variables['params'], ADALN, cond)
  np.testing.assert_allclose(got, want, atol=3e-5)
  same, _ = module.apply(
    variables, X, cond=jnp.repeat(COND['block'][:, None], T, 1), mask=MASK
  )
  one, _ = module.apply(variables, X, cond=COND['block'], mask=MASK)
  np.testing.assert_allclose(same, one, atol=1e-5)


@pytest.mark.parametrize('config', [ADALN, SHARED])
def test_modulated_block_needs_its_condition(config):
  module = nn.Block(config)
  variables = redraw(module, X, cond=COND[config.modulation])
  with pytest.raises(ValueError, match='needs `cond`'):
    module.apply(variables, X)


def test_fresh_gates_are_nearly_closed():
  module = nn.Block(ADALN)
  init = jax.jit(lambda rng: module.init(rng, X, cond=COND['block']))
  variables = init(jax.random.key(0))
  got, _ = module.apply(variables, X, cond=COND['block'])
  change = np.abs(got - X).max()
  assert 0 < change < 0.05
  kernel = variables['params']['ada']['kernel'].reshape(D, 6, D)
  spread = kernel.std(axis=(0, 2))
  np.testing.assert_allclose(spread[:2], 1e-3 * D**-0.5, rtol=0.3)
  np.testing.assert_allclose(spread[2:], 0.5 * D**-0.5, rtol=0.3)


STACKS = {'plain': BLOCK, 'block': ADALN, 'shared': SHARED}
every = pytest.mark.parametrize('name', STACKS)


@functools.cache
def stack(name, **options):
  """A stack, its variables, and its keyword arguments."""
  config = STACKS[name]
  module = nn.Stack(nn.StackConfig(depth=L, block=config, **options))
  cond = COND[config.modulation]
  rotation = nn.rotation(np.arange(T)[:, None], config.attention.features)
  variables = redraw(module, X, cond=cond)
  return module, variables, {'cond': cond, 'rotation': rotation}


@functools.cache
def run(name):
  """The whole stack under the block-causal mask, compiled."""
  module, variables, kwargs = stack(name)
  return jax.jit(lambda v: module.apply(v, X, mask=MASK, **kwargs)[0])(
    variables
  )


@every
def test_stack_equals_its_blocks_and_its_unstacked_self(name):
  module, variables, kwargs = stack(name)
  split = nn.unstack(variables)
  layers = split['params']['layers']
  assert isinstance(layers, tuple) and len(layers) == L
  x = X
  for params in layers:
    x, _ = nn.Block(STACKS[name]).apply(
      {'params': params}, x, mask=MASK, **kwargs
    )
  np.testing.assert_allclose(run(name), x, atol=1e-5)
  got, _ = jax.jit(lambda v: module.apply(v, X, mask=MASK, **kwargs))(split)
  np.testing.assert_allclose(got, x, atol=1e-5)


@pytest.mark.parametrize('name', ['block', 'shared'])
def test_modulation_may_be_known_before(name):
  module, variables, kwargs = stack(name)
  for v in (variables, nn.unstack(variables)):
    mod = module.apply(v, kwargs['cond'], method='modulation')
    options = {**kwargs, 'cond': None, 'mod': mod}
    got, _ = module.apply(v, X, mask=MASK, **options)
    np.testing.assert_allclose(got, run(name), atol=1e-5)


def test_unstack_finds_every_stack():
  leaf = np.arange(6).reshape(3, 2)
  tree = {
    'params': {'encoder': {'layers': {'w': leaf}}, 'head': leaf},
    'layers': {'w': leaf[:2]},
  }
  got = nn.unstack(tree)
  np.testing.assert_array_equal(got['params']['head'], leaf)
  assert len(got['params']['encoder']['layers']) == 3
  np.testing.assert_array_equal(
    got['params']['encoder']['layers'][1]['w'], [2, 3]
  )
  assert len(got['layers']) == 2


@pytest.mark.parametrize(
  'name, form, exact',
  [
    ('block', 'scan', True),
    ('block', 'unstacked', True),
    ('plain', 'scan', False),
    ('shared', 'unstacked', False),
  ],
)
def test_cached_equals_uncached(name, form, exact):
  """Block by block into a cache, seen exactly or whole under a mask."""
  module, variables, kwargs = stack(name)
  if form == 'unstacked':
    variables = nn.unstack(variables)
  capacity = T if exact else T + 2
  cache = module.apply(variables, B, capacity, method='empty_cache')
  assert isinstance(cache, tuple) == (form == 'unstacked')
  rotation, out, start = kwargs['rotation'], [], 0
  for size in SIZES:
    stop = start + size
    part = slice(start, stop)
    turn = rotation.replace(cos=rotation.cos[part], sin=rotation.sin[part])
    seen = (np.arange(capacity) < stop)[None]
    limits = {'visible': stop} if exact else {'mask': seen}
    y, cache = module.apply(
      variables,
      X[:, part],
      cond=kwargs['cond'],
      rotation=turn,
      cache=cache,
      start=start,
      **limits,
    )
    out.append(y)
    start = stop
  np.testing.assert_allclose(jnp.concatenate(out, 1), run(name), atol=1e-5)


@pytest.mark.parametrize('form', ['scan', 'unstacked'])
def test_segments_compose_with_and_without_a_cache(form):
  module, variables, kwargs = stack('block')
  if form == 'unstacked':
    variables = nn.unstack(variables)
  empty = module.apply(variables, B, T, method='empty_cache')
  whole, full = module.apply(variables, X, mask=MASK, cache=empty, **kwargs)
  x, y, cache = X, X, empty
  for segment in ((0, 1), (1, 1), (1, L)):
    options = kwargs | {'mask': MASK, 'segment': segment}
    x, _ = module.apply(variables, x, **options)
    y, cache = module.apply(variables, y, cache=cache, **options)
    if segment == (0, 1):
      assert np.abs(x - whole).max() > 0.1
  np.testing.assert_allclose(x, whole, atol=1e-5)
  np.testing.assert_allclose(y, whole, atol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), cache, full
  )


def test_remat_and_unrolling_change_neither_value_nor_gradient():
  results = []
  for options in ({}, {'remat': True}, {'unroll': L}):
    module, variables, kwargs = stack('block', **options)

    def loss(variables, module=module, kwargs=kwargs):
      return jnp.sum(jnp.sin(module.apply(variables, X, **kwargs)[0]))

    traced = jax.jit(jax.value_and_grad(loss)).trace(variables)
    recomputes = 'remat' in str(traced.jaxpr)
    assert recomputes == ('remat' in options)
    results.append(traced.lower().compile()(variables))
  assert all(np.any(g) for g in jax.tree.leaves(results[0][1]))
  for other in results[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
      results[0],
      other,
    )


@every
def test_bfloat16_is_finite_and_near(name):
  _, variables, kwargs = stack(name)
  config = nn.StackConfig(depth=L, block=STACKS[name])
  low = nn.Stack(config, dtype=jnp.bfloat16)
  x = X.astype(jnp.bfloat16)
  cond = kwargs['cond']
  kwargs = kwargs | {'cond': None if cond is None else cond.astype(x.dtype)}
  got, _ = jax.jit(lambda v: low.apply(v, x, mask=MASK, **kwargs))(variables)
  assert got.dtype == jnp.bfloat16 and np.isfinite(got).all()
  error = np.abs(np.asarray(got, np.float32) - run(name))
  assert error.mean() < 0.05 * np.abs(run(name)).mean()
  init = jax.eval_shape(
    lambda rng: low.init(rng, x, cond=kwargs['cond']), jax.random.key(0)
  )
  assert {p.dtype for p in jax.tree.leaves(init)} == {jnp.dtype('float32')}


def branch(x, seed, drop=0.0, **options):
  """What the attention branch added to x, and what it adds without noise."""
  config = nn.BlockConfig(width=D, heads=2, **options)
  module = nn.Block(config)
  variables = redraw(module, X)

  @jax.jit
  def attend(rng):
    call = functools.partial(module.apply, variables, x, {}, method='attend')
    noisy, _ = call(drop=drop, deterministic=False, rngs={'dropout': rng})
    return noisy - x, call()[0] - x

  return jax.tree.map(np.asarray, attend(jax.random.key(seed)))


def test_dropout_keeps_the_expectation():
  x = jnp.repeat(X, 100, axis=0)
  noisy, plain = branch(x, 0, dropout=0.25)
  kept = noisy != 0
  np.testing.assert_allclose(kept.mean(), 0.75, atol=0.02)
  np.testing.assert_allclose(noisy[kept], plain[kept] / 0.75, atol=1e-5)
  other, _ = branch(x, 1, dropout=0.25)
  assert ((other != 0) != kept).any()


def test_drop_path_drops_whole_branches_and_keeps_the_expectation():
  x = jnp.repeat(X, 400, axis=0)
  noisy, plain = branch(x, 0, drop=0.25, drop_path=0.5)
  kept = np.any(noisy != 0, axis=(1, 2))
  np.testing.assert_allclose(kept.mean(), 0.75, atol=0.05)
  np.testing.assert_allclose(noisy[kept], plain[kept] / 0.75, atol=1e-5)
  np.testing.assert_array_equal(noisy[~kept], 0)


@pytest.mark.parametrize('form', ['scan', 'unstacked'])
def test_drop_path_of_a_stack_rises_from_zero(form):
  """The first layer keeps both branches, the last drops half of each."""
  config = nn.BlockConfig(width=D, heads=2, drop_path=0.5)
  module = nn.Stack(nn.StackConfig(depth=2, block=config))
  x = jnp.repeat(X[:1], 200, axis=0)
  variables = redraw(module, X)
  if form == 'unstacked':
    variables = nn.unstack(variables)
  first, _ = module.apply(variables, x, segment=(0, 1))
  noisy, _ = jax.jit(
    lambda v, rng: module.apply(
      v, x, deterministic=False, rngs={'dropout': rng}
    )
  )(variables, jax.random.key(0))
  untouched = np.abs(noisy - first).max(axis=(1, 2)) < 1e-5
  np.testing.assert_allclose(untouched.mean(), 0.25, atol=0.1)
  kinds = np.unique(np.round(noisy, 3), axis=0)
  assert len(kinds) == 4  # each of two branches kept or dropped


def test_noise_needs_a_key_and_none_is_drawn_without_rates():
  noisy = nn.Stack(
    nn.StackConfig(depth=1, block=nn.BlockConfig(width=D, heads=2, dropout=0.5))
  )
  variables = redraw(noisy, X)
  with pytest.raises(Exception, match='dropout'):
    noisy.apply(variables, X, deterministic=False)
  plain = nn.Stack(nn.StackConfig(depth=1, block=BLOCK))
  got, _ = plain.apply(variables, X, deterministic=False)
  np.testing.assert_array_equal(got, noisy.apply(variables, X)[0])
