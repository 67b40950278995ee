"""Pruners in all hosts, what hosts show of themselves, and what they refuse."""

import dataclasses
import functools
from typing import Any, ClassVar

import host_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.models import sites
from tokpress_jax.types import Tokens

HOSTS = ('vit', 'deit', 'clip', 'siglip')
MERGE = pruners.ToMe(budget=pruners.Remove(tokens=4))


def draw(shapes, seed=0):
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(seed)
  drawn = [
    jnp.asarray(rng.normal(size=x.shape) * 0.2, jnp.float32) for x in leaves
  ]
  return jax.tree.unflatten(tree, drawn)


@functools.cache
def host(name):
  """A host of 4 x 4 patches whose every parameter matters, and images."""
  size = {'image_size': 16, 'width': 16, 'depth': 2}
  config = dataclasses.replace(host_cases.CONFIGS[name], **size)
  module = config.build()
  images = jax.random.uniform(
    jax.random.key(0), (2, 16, 16, 3), minval=-1, maxval=1
  )
  shapes = jax.eval_shape(module.init, jax.random.key(1), images)
  return module, draw(shapes), images


@functools.cache
def runner(name):
  module, _, _ = host(name)
  return jax.jit(
    lambda variables, images, plan, proportional=True, hidden=(): module.apply(
      variables, images, plan=plan, proportional=proportional, hidden=hidden
    ),
    static_argnames=('plan', 'proportional', 'hidden'),
  )


def paired(name):
  """Variables and images such that tokens 2i and 2i + 1 of 8 are the same."""
  module, variables, images = host(name)
  special = module.config.num_special
  tile = np.array(images).reshape(2, 4, 4, 4, 4, 3).swapaxes(2, 3)
  flat = tile.reshape(2, 16, 4, 4, 3).copy()
  flat[:, 1:8:2] = flat[:, 0:8:2]
  tile = flat.reshape(2, 4, 4, 4, 4, 3).swapaxes(2, 3)
  params = dict(variables['params'])
  table = np.array(params['positions']['table'])
  table[special + 1 : special + 8 : 2] = table[special : special + 8 : 2]
  params['positions'] = {'table': jnp.asarray(table)}
  return {'params': params}, jnp.asarray(tile.reshape(2, 16, 16, 3))


@pytest.mark.parametrize('name', HOSTS)
def test_merging_equal_tokens_changes_nothing(name):
  variables, images = paired(name)
  run = runner(name)
  whole = run(variables, images, ())
  plan = (('block_0.after_attention', MERGE),)
  merged = run(variables, images, plan)
  config = host(name)[0].config
  assert merged.tokens.mass.shape == (2, config.num_tokens - 4)
  assert set(np.unique(merged.tokens.mass)) == {1, 2}
  np.testing.assert_array_equal(
    merged.tokens.kind[:, : config.num_special], models.vit.SPECIAL
  )
  for ours, want in (
    (merged.pooled, whole.pooled),
    (merged.logits, whole.logits),
  ):
    np.testing.assert_allclose(ours, want, atol=2e-5)
  # Without their masses merged keys count too little.
  other = run(variables, images, plan, proportional=False)
  assert np.abs(other.pooled - whole.pooled).max() > 1e-3


@pytest.mark.parametrize('name', HOSTS)
def test_batches_devices_gradients_and_bfloat16(name):
  module, variables, _ = host(name)
  images = jax.random.uniform(
    jax.random.key(3), (8, 16, 16, 3), minval=-1, maxval=1
  )
  plan = (
    ('block_0.after_attention', MERGE),
    ('tower_out', pruners.TopNorm(budget=5)),
  )

  run = runner(name)
  whole = run(variables, images, plan)
  one = run(variables, images[5:6], plan)
  np.testing.assert_allclose(one.pooled[0], whole.pooled[5], atol=1e-5)
  np.testing.assert_array_equal(
    one.reductions[1].index[0], whole.reductions[1].index[5]
  )
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spec = jax.sharding.PartitionSpec('data')
  spread = jax.device_put(images, jax.sharding.NamedSharding(mesh, spec))
  out = run(variables, spread, plan)
  np.testing.assert_allclose(out.pooled, whole.pooled, atol=1e-5)

  def loss(variables):
    out = module.apply(variables, images[:2], plan=plan)
    return jnp.square(out.pooled).sum() + out.logits.sum()

  slope = jax.jit(jax.grad(loss))(variables)
  assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(slope))
  half = module.config.build(dtype=jnp.bfloat16)
  rough = jax.jit(lambda v, x: half.apply(v, x, plan=plan))(
    variables, images[:2]
  )
  assert rough.pooled.dtype == rough.logits.dtype == jnp.float32
  assert bool(jnp.isfinite(rough.pooled).all())


def test_the_end_of_a_tower_is_a_site():
  module, variables, images = host('siglip')
  run = runner('siglip')
  keep = pruners.Stride(budget=6)
  whole = run(variables, images, ())
  out = run(variables, images, (('tower_out', keep),))
  assert out.sites == ('tower_out',)
  kept = out.reductions[0].index
  want = jnp.take_along_axis(whole.tokens.features, kept[..., None], axis=1)
  np.testing.assert_allclose(out.tokens.features, want, atol=1e-5)
  assert np.abs(out.pooled - whole.pooled).max() > 1e-3
  counts = models.token_counts(module.config, (('tower_out', keep),))
  assert counts == ((16, 16),) * 2


def test_hidden_tokens_between_pruners():
  _, variables, images = host('clip')
  run = runner('clip')
  plan = (
    ('embed', pruners.Stride(budget=12)),
    ('block_1.after_attention', MERGE),
  )
  out = run(variables, images, plan, hidden=(0, -2, -1, 2))
  assert [x.features.shape[1] for x in out.hidden] == [13, 13, 9, 9]
  whole = run(variables, images, (), hidden=(0, 1, 2))
  same = run(variables, images, ())
  np.testing.assert_allclose(out.pooled.shape, same.pooled.shape)
  np.testing.assert_allclose(whole.pooled, same.pooled, atol=1e-5)
  kept = out.reductions[0].index
  first = whole.hidden[0].features
  want = jnp.take_along_axis(first, kept[..., None], axis=1)
  np.testing.assert_allclose(out.hidden[0].features, want, atol=1e-6)
  last = out.hidden[-1].features
  scale = np.array(variables['params']['norm']['scale'])
  normed = (last - last.mean(-1, keepdims=True)) / np.sqrt(
    last.var(-1, keepdims=True) + 1e-5
  )
  normed = normed * scale[None, None]
  normed = normed + variables['params']['norm']['bias'][None, None]
  np.testing.assert_allclose(out.tokens.features, normed, atol=1e-5)
  with pytest.raises(ValueError, match=r'layers \[3, -4\].*2 layers.*0 to 2'):
    run(variables, images, (), hidden=(0, 3, -4))


def test_layers_after_the_wanted_one_are_not_computed():
  module, variables, images = host('clip')

  def flops(read):
    run = lambda v, x: read(module.apply(v, x, hidden=(0, 1)))
    compiled = jax.jit(run).lower(variables, images).compile()
    return compiled.cost_analysis()['flops']

  none, one, two = (
    flops(read)
    for read in (
      lambda out: out.hidden[0].features,
      lambda out: out.hidden[1].features,
      lambda out: out.pooled,
    )
  )
  assert one - none < 0.6 * (two - none)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MostSeen(pruners.Pruner):
  """Keeps the tokens that receive the most attention."""

  needs: ClassVar[frozenset[str]] = frozenset({'attention_column'})

  def decide(self, tokens: Tokens, signals: Any, state: Any) -> Any:
    score = signals.attention_column.mean(axis=1)
    own = pruners.TopNorm(budget=self.budget)
    return own.decide(
      dataclasses.replace(tokens, features=score[..., None]), signals, state
    )


def test_column_sums_of_attention():
  rng = np.random.default_rng(0)
  b, a, n, e = 2, 3, 300, 4
  q, k = (rng.normal(size=(b, a, n, e)).astype(np.float32) for _ in 'qk')
  valid = np.ones((b, n), bool)
  valid[1, 250:] = False
  mass = np.where(valid, rng.integers(1, 4, (b, n)), 0).astype(np.float32)
  tokens = Tokens.create(jnp.zeros((b, n, 1)), valid=jnp.asarray(valid))
  tokens = dataclasses.replace(tokens, mass=jnp.asarray(mass))
  column = jax.jit(functools.partial(sites.attention_column, scale=0.7))
  got = column(jnp.asarray(q), jnp.asarray(k), tokens)
  row = sites.attention_row(
    jnp.asarray(q[:, :, 5]), jnp.asarray(k), tokens, scale=0.7
  )
  weights = np.exp(0.7 * np.einsum('bamd,band->bamn', q, k).astype(np.float64))
  weights *= mass[:, None, None]
  weights /= weights.sum(-1, keepdims=True)
  np.testing.assert_allclose(row, weights[:, :, 5], atol=1e-6)
  weights[1, :, 250:] = 0
  np.testing.assert_allclose(got, weights.sum(2), atol=1e-5 * n)
  total = valid.sum(1)[:, None] * np.ones((1, 3))
  np.testing.assert_allclose(got.sum(-1), total, rtol=1e-5)


def test_a_host_gives_column_sums_where_they_are_needed():
  _, variables, images = host('siglip')
  plan = (('block_1.after_attention', MostSeen(budget=5)),)
  out = runner('siglip')(variables, images, plan)
  block = jax.tree.map(lambda x: x[1], variables['params']['stack']['layers'])
  before = runner('siglip')(variables, images, (), hidden=(1,)).hidden[0]
  x = np.asarray(before.features, np.float64)
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
  x = x * np.array(block['norm1']['scale']) + np.array(block['norm1']['bias'])
  qkv = x @ np.array(block['attn']['qkv']['kernel'])
  qkv = qkv + np.array(block['attn']['qkv']['bias'])
  q, k, _ = qkv.reshape(2, 16, 3, 2, 8).transpose(2, 0, 3, 1, 4)
  weights = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(8))
  weights /= weights.sum(-1, keepdims=True)
  score = weights.sum(2).mean(1)
  want = np.sort(np.argsort(-score, axis=1)[:, :5], axis=1)
  np.testing.assert_array_equal(np.sort(out.reductions[0].index, axis=1), want)


def test_bad_plans_and_configs():
  module, variables, images = host('siglip')
  plan = (
    ('towr_out', MERGE),
    ('tower_out', MERGE),
    ('block_0.after_attention', pruners.TopAttention(budget=4)),
  )
  with pytest.raises(ValueError) as error:
    module.apply(variables, images, plan=plan)
  said = str(error.value)
  assert "unknown site 'towr_out'; sites are embed, block_i" in said
  assert "and tower_out; try 'tower_out'" in said
  assert "ToMe needs ['keys'], and site 'tower_out' gives ['pixels']" in said
  assert "TopAttention needs ['attention_row']" in said  # No class token.
  for changes, message in (
    ({'pool': 'distilled'}, 'set distillation_token=True'),
    ({'class_token': False, 'distillation_token': True}, "set pool='mean'"),
    (
      {'class_token': False, 'distillation_token': True, 'pool': 'mean'},
      'follows a class token',
    ),
    ({'mean': (0.5, 0.5)}, 'nor one for each of 3 channels'),
    ({'patch': 300, 'remainder': 'drop'}, 'no patch of 300'),
  ):
    with pytest.raises(ValueError, match=message):
      models.ViTConfig(**changes)
