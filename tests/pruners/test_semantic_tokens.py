"""Semantic tokens against the official code, in windows and in a ViT.

`tests/golden/make_semantic_tokens.py` says what made the golden file.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import semantic_tokens_case as case
from redraw import redraw, unpack

from tokpress_jax import models, pruners
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import window_grids
from tokpress_jax.pruners.inside_vit import semantic_tokens
from tokpress_jax.types import Tokens

SWIN_S = pruners.SemanticConfig()
SWIN_B = pruners.SemanticConfig(width=512, heads=16)
# Where the parameters of each official block are.
BLOCKS = (
  ('image',),
  ('generate', 'first'),
  ('generate', 'second'),
  ('local',),
  ('all',),
  ('recovery',),
)


def config(name):
  samples, on = case.CASES[name]
  return pruners.SemanticConfig(
    width=case.WIDTH,
    heads=case.HEADS,
    samples=(samples, samples),
    **dict.fromkeys(on, True),
  )


def group(name, **options):
  return pruners.SemanticGroup(config(name), **options)


@functools.cache
def golden(name):
  with np.load(case.GOLDEN) as stored:
    found = {
      k.split('/')[1]: v for k, v in stored.items() if k.startswith(f'{name}/')
    }
  shapes = unpack(found.pop('shapes'))
  return found, redraw(shapes, rules=case.RULES)


def block(drawn, prefix):
  """Our parameters of one official block."""
  take = lambda key: drawn.get(f'{prefix}.{key}')

  def dense(key):
    return {'kernel': take(f'{key}.weight').T, 'bias': take(f'{key}.bias')}

  norm = lambda key: {
    'scale': take(f'{key}.weight'),
    'bias': take(f'{key}.bias'),
  }
  if take('attn.qkv.weight') is None:
    query, keys = dense('attn.q'), dense('attn.kv')
  else:
    both = dense('attn.qkv')
    cut = lambda at: {k: v[..., at] for k, v in both.items()}
    query = cut(slice(None, case.WIDTH))
    keys = cut(slice(case.WIDTH, None))
  found = {
    'norm1': norm('norm1'),
    'norm2': norm('norm2'),
    'attn': {'query': query, 'keys': keys, 'proj': dense('attn.proj')},
    'mlp': {'fc1': dense('mlp.fc1'), 'fc2': dense('mlp.fc2')},
    'scale1': take('layer_scale_1'),
    'scale2': take('layer_scale_2'),
    'bias_table': take('attn.relative_position_bias_table'),
  }
  return {k: v for k, v in found.items() if v is not None}


@functools.cache
def variables(name):
  _, drawn = golden(name)
  params = {'generate': {}}
  for i, path in enumerate(BLOCKS):
    at = params if len(path) == 1 else params[path[0]]
    at[path[-1]] = block(drawn, f'blocks.{i}')
  if 'conv_position' in case.CASES[name][1]:
    conv = 'blocks.1.conv_pos.proj.0'
    params['generate']['conv'] = {
      'kernel': drawn[f'{conv}.weight'].transpose(2, 3, 1, 0),
      'bias': drawn[f'{conv}.bias'],
    }
  if 'global_tokens' in case.CASES[name][1]:
    params['generate']['global_tokens'] = drawn['semantic_token2'][0]
  return {'params': params}


def images(name):
  side = (1, case.GRID, case.GRID, case.WIDTH)
  return [jnp.asarray(a.reshape(side)) for a in case.inputs(name)]


def parts(module, x):
  """What the golden file has of a bound group."""
  x = semantic_tokens._in_windows(module.image, x, (case.WINDOW,) * 2, True)
  tokens = module.semantic(x)
  return {
    'pooled': module.generate.pooled(x),
    'semantic': tokens,
    'out': module.recover(x, tokens),
  }


@functools.cache
def program(name):
  return jax.jit(functools.partial(group(name).apply, method=parts))


@functools.cache
def gradients(name):
  """Of the sum of the output along a drawing: of parameters and tokens."""

  def loss(variables, x, along):
    return jnp.sum(group(name).apply(variables, x) * along)

  return jax.jit(jax.grad(loss, argnums=(0, 1)))(variables(name), *images(name))


def agree(got, want):
  want = want.reshape(got.shape)
  assert np.abs(got - want).max() < 1e-5 * want.std()


every = pytest.mark.parametrize('name', case.CASES)


@every
def test_outputs_are_the_official_ones(name):
  for key, got in program(name)(variables(name), images(name)[0]).items():
    agree(got, golden(name)[0][key])


def test_the_gradient_is_the_official_one():
  name = case.WITH_GRADIENT
  agree(gradients(name)[1], golden(name)[0]['gradient'])


def test_gradients_reach_every_parameter():
  found, _ = gradients(case.WITH_GRADIENT)
  for path, leaf in jax.tree.leaves_with_path(found):
    assert np.abs(leaf).max() > 1e-3, path


def test_a_fresh_group_has_the_parameters_that_were_mapped():
  for name in case.CASES:
    x = images(name)[0]
    fresh = jax.eval_shape(group(name).init, jax.random.key(0), x)
    shapes = lambda tree: jax.tree.map(lambda a: a.shape, tree)
    assert shapes(fresh) == shapes(variables(name))


def test_eager_is_jitted():
  module = pruners.SemanticTokens(config('paper'))
  run = functools.partial(
    module.apply, {'params': variables('paper')['params']['generate']}
  )
  x = images('paper')[0]
  np.testing.assert_allclose(run(x), jax.jit(run)(x), atol=1e-4)


def test_a_row_does_not_depend_on_its_batch():
  x = images('paper')[0]
  both = jnp.concatenate([x[:, ::-1], x])
  got = jax.jit(group('paper').apply)(variables('paper'), both)
  want = program('paper')(variables('paper'), x)['out']
  np.testing.assert_allclose(got[1:], want, atol=1e-4)


def test_bfloat16_is_near():
  x = images('all')[0].astype(jnp.bfloat16)
  module = group('all', dtype=jnp.bfloat16)
  got = jax.jit(module.apply)(variables('all'), x)
  assert got.dtype == jnp.bfloat16
  want = golden('all')[0]['out'].reshape(got.shape)
  assert np.abs(got.astype(jnp.float32) - want).mean() < 0.1 * want.std()


@pytest.mark.parametrize(
  ('published', 'millions'), [(SWIN_S, 33.141), (SWIN_B, 58.868)]
)
def test_published_sizes(published, millions):
  """The third stage's parameters as the official logs count them.

  They are of three groups, and of 8 D (D + 1) more that merge patches after.
  """
  module = pruners.SemanticGroup(published)
  width = published.width
  x = jax.ShapeDtypeStruct((2, 14, 14, width), jnp.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  count = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
  assert round((3 * count + 8 * width * (width + 1)) / 1e6, 3) == millions
  found = jax.eval_shape(
    functools.partial(module.apply, method=parts), shapes, x
  )
  assert found['out'].shape == x.shape
  assert found['semantic'].shape == (2, 6, 6, published.width)


def test_the_work_is_less_than_half_of_six_window_blocks():
  x = jax.ShapeDtypeStruct((1, 14, 14, 384), jnp.float32)
  work = lambda module, x: count_flops(
    lambda key, x: module.init_with_output(key, x)[0], jax.random.key(0), x
  )
  cells = jax.ShapeDtypeStruct((1, 4, 49, 384), jnp.float32)
  block = semantic_tokens.SemanticBlock(SWIN_S, relative=(7, 7))
  found = work(pruners.SemanticGroup(SWIN_S), x)
  assert found < 0.5 * 6 * work(block, cells)
  # The official log counts 3.312 G multiply-adds in three groups.
  assert 3 / 2 * found < 3.312e9


def test_fresh_semantic_tokens_come_from_attention():
  """Gates start at 1e-5, and pooled tokens are not added in the release."""
  small = pruners.SemanticConfig(
    width=4, heads=1, grid=(2, 2), window=(2, 2), samples=(1, 1), reach=(2, 2)
  )
  x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 2, 4)), 'float32')
  for residual, want in ((False, 0), (True, x.max(axis=(1, 2), keepdims=True))):
    module = pruners.SemanticTokens(
      dataclasses.replace(small, residual=residual)
    )
    tokens, _ = jax.jit(module.init_with_output)(jax.random.key(0), x)
    np.testing.assert_allclose(tokens, want * jnp.ones((1, 1, 1, 4)), atol=1e-3)


def test_branches_are_dropped_for_whole_images():
  small = pruners.SemanticConfig(width=4, heads=1)
  block = semantic_tokens.SemanticBlock(small, drop_path=0.5)
  rng = np.random.default_rng(0)
  draw = lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  x = draw((16, 2, 3, 4))
  drawn = jax.tree.map(
    lambda a: draw(a.shape), jax.eval_shape(block.init, jax.random.key(0), x)
  )

  @jax.jit
  def run(x, key):
    apply = functools.partial(block.apply, drawn)
    y = apply(x, apply(x, method='memory'), method='attend')
    fed = lambda x: apply(x, method='feed') - x
    out = apply(x, deterministic=False, rngs={'dropout': key})
    both = x + 2 * y
    return out, (x, both, x + 2 * fed(x), both + 2 * fed(both))

  out, wanted = run(x, jax.random.key(1))
  near = np.stack(
    [np.isclose(out, w, atol=1e-4).all(axis=(1, 2, 3)) for w in wanted]
  )
  assert (near.sum(axis=0) == 1).all()  # each image is one of the four
  assert near.any(axis=1).all()  # and each of the four is drawn


GRID, WINDOW, SAMPLES, REACH = (6, 12), (3, 4), (2, 3), (4, 7)


def test_pooling_and_regions_are_those_of_a_loop():
  x = np.random.default_rng(0).normal(size=(2, *GRID, 3)).astype(np.float32)
  pooled = window_grids.pool_windows(
    jnp.asarray(x), window=WINDOW, samples=SAMPLES
  )
  around = window_grids.regions(jnp.asarray(x), windows=(2, 3), reach=REACH)
  # Of 3 to 2 and of 4 to 3 the parts overlap by one.
  rows, columns = ((0, 2), (1, 3)), ((0, 2), (1, 3), (2, 4))
  starts = (0, 2), (0, 2, 5)
  for i, j in np.ndindex(2, 3):
    cut = x[:, 3 * i : 3 * i + 3, 4 * j : 4 * j + 4]
    want = [
      cut[:, a:b, c:d].max(axis=(1, 2))
      for (a, b), (c, d) in itertools.product(rows, columns)
    ]
    np.testing.assert_array_equal(pooled[:, i, j], np.stack(want, axis=1))
    top, left = starts[0][i], starts[1][j]
    cut = x[:, top : top + 4, left : left + 7].reshape(2, -1, 3)
    np.testing.assert_array_equal(around[:, i, j], cut)
    assert top <= 3 * i and 3 * i + 3 <= top + 4
    assert left <= 4 * j and 4 * j + 4 <= left + 7


def test_official_regions():
  """Of 10 tokens, 4 apart."""
  x = jnp.arange(196).reshape(1, 14, 14, 1)
  found = window_grids.regions(x, windows=(2, 2), reach=(10, 10))
  first = found[0, :, :, 0, 0]
  np.testing.assert_array_equal(first, [[0, 4], [56, 60]])
  assert found.shape == (1, 2, 2, 100, 1)


VIT = models.ViTConfig(
  image_size=16, patch=4, width=8, depth=3, heads=2, classes=5
)
IN_VIT = pruners.SemanticPruner(
  pruners.SemanticConfig(
    width=8,
    heads=2,
    grid=(4, 4),
    window=(4, 2),
    samples=(2, 1),
    reach=(4, 4),
    residual=True,
    global_tokens=True,
  )
)


def tokens_of(features, **options):
  """A class token and a grid of 4 x 4."""
  protected = np.arange(17) == 0
  return Tokens.create(
    features,
    protected=jnp.broadcast_to(protected[None], features.shape[:2]),
    num_protected=1,
    **options,
  )


@functools.cache
def in_vit():
  """Redrawn variables of both, and images."""
  rng = np.random.default_rng(0)
  draw = lambda tree: jax.tree.map(
    lambda a: jnp.asarray(0.4 * rng.normal(size=a.shape), jnp.float32), tree
  )
  x = jnp.asarray(rng.uniform(-1, 1, size=(2, 16, 16, 3)), jnp.float32)
  key = jax.random.key(0)
  vit = jax.eval_shape(VIT.build().init, key, x)
  own = jax.eval_shape(IN_VIT.init, key, tokens_of(jnp.zeros((2, 17, 8))))
  return draw(vit), draw(own), x


def pruned(vit, own, x):
  plan = (('block_0.after_mlp', IN_VIT.bind(own)),)
  return VIT.build().apply(vit, x, plan=plan, proportional=False)


def test_a_vit_runs_on_semantic_tokens_from_a_layer_on():
  vit, own, x = in_vit()
  found = jax.jit(pruned)(vit, own, x)

  @jax.jit
  def by_hand(vit, own, x):
    host = VIT.build().bind(vit)
    row = host(x, hidden=(1,)).hidden[0].features
    module = pruners.SemanticTokens(IN_VIT.config)
    params = {'params': own['params']['generate']}
    few = module.apply(params, row[:, 1:].reshape(2, 4, 4, 8))
    few = jnp.concatenate([row[:, :1], few.reshape(2, 4, 8)], axis=1)
    last, _ = host.stack(few, segment=(1, 3))
    return host.head(host.norm(last)[:, 0]), host(x).logits

  want, whole = by_hand(vit, own, x)
  np.testing.assert_allclose(found.logits, want, atol=1e-5)
  assert np.abs(whole - want).max() > 0.01
  tokens = found.tokens
  assert tokens.features.shape == (2, 5, 8)
  np.testing.assert_array_equal(tokens.mass, np.tile([1, 4, 4, 4, 4], (2, 1)))
  # The class token's place, then the middles of 2 x 2 patches.
  places = [[-1, -1], [0.5, 0.5], [0.5, 2.5], [2.5, 0.5], [2.5, 2.5]]
  np.testing.assert_array_equal(tokens.positions[1], places)
  back = pruners.unmerge(found.reductions[0], jnp.arange(10.0).reshape(2, 5))
  grid = np.repeat(np.repeat([[1, 2], [3, 4]], 2, axis=0), 2, axis=1)
  np.testing.assert_array_equal(back[0], [0, *grid.ravel()])


def test_a_loss_of_the_vit_trains_its_semantic_tokens():
  vit, own, x = in_vit()
  loss = lambda own: jnp.sum(pruned(vit, own, x).logits ** 2)
  for path, leaf in jax.tree.leaves_with_path(jax.jit(jax.grad(loss))(own)):
    assert np.abs(leaf).max() > 1e-6, path


def test_shares_of_overlapping_parts_add_up():
  part = window_grids.membership((14, 14), window=(7, 7), samples=(3, 3))
  assert part.shape == (36, 196)
  np.testing.assert_allclose(part.sum(axis=0), 1)
  first = part.reshape(6, 6, 14, 14)[0, 0]
  side = np.array([1, 1, 0.5])
  np.testing.assert_allclose(first[:3, :3], side[:, None] * side)
  assert first.sum() == 2.5**2


def test_a_broken_grid_has_no_semantic_tokens():
  _, own, _ = in_vit()
  valid = np.ones((2, 17), bool)
  valid[1, 9] = False
  features = jnp.ones((2, 17, 8))
  tokens = tokens_of(features, valid=jnp.asarray(valid))
  out, _ = jax.jit(IN_VIT.apply)(own, tokens)
  np.testing.assert_array_equal(out.valid, [[True] * 5, [True] + [False] * 4])
  assert (out.features[1, 1:] == 0).all()
  assert (out.features[0] != 0).all()


def test_it_is_a_pruner():
  assert isinstance(IN_VIT, pruners.PrunerProtocol)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'grid': (14, 15)}, 'do not tile'),
    ({'samples': (8, 3)}, 'pooled to fewer'),
    ({'reach': (10, 6)}, 'leaves out'),
    ({'window': (0, 7)}, '1 or more'),
  ],
)
def test_sizes_that_do_not_fit_are_refused(options, message):
  with pytest.raises(UserError, match=message):
    pruners.SemanticConfig(**options)


def test_another_grid_is_refused():
  with pytest.raises(UserError, match=r'expected image tokens of \[B, 14, 14'):
    pruners.SemanticGroup(SWIN_S).init(
      jax.random.key(0), jnp.zeros((1, 14, 7, 384))
    )
  with pytest.raises(UserError, match='17 were given beside 0'):
    IN_VIT.apply(in_vit()[1], Tokens.create(jnp.ones((1, 17, 8))))
