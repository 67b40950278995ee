"""The ViT as a host: sizes, plans, and pruning against a plain rewriting."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import models, nn, pruners
from tokpress_jax.bench.flops import count_flops
from tokpress_jax.types import Ratio

CONFIG = models.ViTConfig(
  image_size=16, patch=4, width=16, depth=3, heads=2, classes=5
)
MERGE = pruners.ToMe(budget=pruners.Remove(tokens=4))
PLAN = (
  ('block_0.after_attention', MERGE),
  ('block_1.after_mlp', pruners.TopAttention(budget=8)),
)


@functools.cache
def setup():
  """A ViT whose every parameter matters, and images."""
  module = CONFIG.build()
  images = jax.random.uniform(
    jax.random.key(0), (3, 16, 16, 3), minval=-1, maxval=1
  )
  shapes = jax.eval_shape(module.init, jax.random.key(1), images)
  leaves, tree = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  drawn = [
    jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32) for x in leaves
  ]
  return module, jax.tree.unflatten(tree, drawn), images


@functools.partial(jax.jit, static_argnames='plan')
def run(plan, rng=None):
  module, variables, images = setup()
  return module.apply(variables, images, plan=plan, rng=rng)


def norm(x, p):
  mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
  return (x - mean) / np.sqrt(var + 1e-6) * p['scale'] + p['bias']


def dense(x, p):
  return x @ p['kernel'] + p['bias']


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def forward(variables, image, plan):
  """One image through the ViT in NumPy, token by token lists and all."""
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), variables['params'])
  image = np.asarray(image, np.float64)
  cuts = [
    image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4].reshape(-1)
    for i in range(4)
    for j in range(4)
  ]
  x = dense(np.stack(cuts), p['embedding'])
  x = np.concatenate([p['class_token'][None], x]) + p['positions']['table']
  mass = np.ones(len(x))
  for i in range(CONFIG.depth):
    layer = jax.tree.map(lambda a, i=i: a[i], p['stack']['layers'])
    qkv = dense(norm(x, layer['norm1']), layer['attn']['qkv'])
    q, k, v = qkv.reshape(len(x), 3, 2, 8).transpose(1, 2, 0, 3)
    weights = softmax(q @ k.transpose(0, 2, 1) / np.sqrt(8) + np.log(mass))
    heads = (weights @ v).transpose(1, 0, 2).reshape(len(x), 16)
    x = x + dense(heads, layer['attn']['proj'])
    if f'block_{i}.after_attention' in plan:
      unit = k.mean(0) / np.linalg.norm(k.mean(0), axis=-1, keepdims=True)
      pairs = unit[::2] @ unit[1::2].T
      pairs[0] = -np.inf
      sources = np.argsort(-pairs.max(1))[:4]
      groups = [[2 * n] for n in range(len(pairs)) if n not in sources]
      groups += [[j] for j in range(1, len(x), 2)]
      for n in sources:
        to = 2 * int(pairs[n].argmax()) + 1
        next(g for g in groups if g[0] == to).append(2 * n)
      x = np.stack(
        [(x[g] * mass[g][:, None]).sum(0) / mass[g].sum() for g in groups]
      )
      mass = np.array([mass[g].sum() for g in groups])
    hidden = dense(norm(x, layer['norm2']), layer['mlp']['fc1'])
    hidden = np.asarray(jax.nn.gelu(hidden, approximate=False))
    x = x + dense(hidden, layer['mlp']['fc2'])
    if f'block_{i}.after_mlp' in plan:
      best = 1 + np.argsort(-weights[:, 0].mean(0)[1:])[:8]
      kept = [0, *sorted(best)]
      x, mass = x[kept], mass[kept]
  x = norm(x, p['norm'])
  return dense(x[0], p['head']), x, mass


@pytest.mark.parametrize('plan', [(), PLAN], ids=['whole', 'pruned'])
def test_equals_a_plain_rewriting(plan):
  _, variables, images = setup()
  out = run(plan)
  for row in range(len(images)):
    logits, x, mass = forward(variables, images[row], dict(plan))
    np.testing.assert_allclose(out.tokens.features[row], x, atol=1e-4)
    np.testing.assert_array_equal(out.tokens.mass[row], mass)
    np.testing.assert_allclose(
      out.logits[row], logits, atol=1e-4 * logits.std()
    )


def test_split_parameters_and_remat_change_nothing():
  module, variables, images = setup()
  want = run(PLAN).logits
  split = nn.unstack(variables)
  got = jax.jit(lambda v: module.apply(v, images, plan=PLAN).logits)(split)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  again = dataclasses.replace(CONFIG, remat=True).build()

  def loss(module, variables):
    return module.apply(variables, images, plan=PLAN).logits.sum()

  a, b = (
    jax.jit(jax.grad(functools.partial(loss, m)))(variables)
    for m in (module, again)
  )
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)
  assert all(float(jnp.abs(x).max()) > 0 for x in jax.tree.leaves(a))


def test_all_kinds_of_sites_random_rows_and_the_mean():
  config = dataclasses.replace(CONFIG, class_token=False, pool='mean')
  module = config.build(dtype=jnp.bfloat16)
  _, _, images = setup()
  variables = module.init(jax.random.key(1), images)
  half = pruners.Random(budget=Ratio(ratio=0.5))
  plan = (
    ('embed', pruners.Stride(budget=12)),
    ('block_0.after_attention', half),
    ('block_0.after_attention', MERGE),
    ('block_0.after_mlp', pruners.TopNorm(budget=2)),
  )
  apply = jax.jit(
    lambda images, rng: module.apply(variables, images, plan=plan, rng=rng)
  )
  out = apply(images, jax.random.key(2))
  assert out.sites == tuple(site for site, _ in plan)
  assert [r.index.shape[1] for r in out.reductions] == [12, 6, 3, 2]
  assert out.logits.dtype == jnp.float32
  assert bool(jnp.isfinite(out.logits).all())
  assert len(np.unique(out.reductions[1].index, axis=0)) > 1  # own draws
  rest = module.apply(variables, images, method='embed')
  for reduction in out.reductions[:1]:
    rest = pruners.reduce_tokens(rest, reduction)
  assert rest.positions.shape == (3, 12, 2)
  assert models.token_counts(config, plan)[0] == (12, 3)


def test_dropout_needs_and_uses_its_rng():
  config = dataclasses.replace(CONFIG, dropout=0.5, drop_path=0.2)
  module, (_, variables, images) = config.build(), setup()
  noisy = jax.jit(
    lambda key: (
      module.apply(
        variables,
        images,
        plan=PLAN,
        deterministic=False,
        rngs={'dropout': key},
      ).logits
    )
  )
  a, b = noisy(jax.random.key(0)), noisy(jax.random.key(1))
  assert float(jnp.abs(a - b).max()) > 0
  np.testing.assert_array_equal(a, noisy(jax.random.key(0)))


def test_flops_of_the_program_are_those_of_the_formula():
  module, variables, images = setup()
  for plan in ((), PLAN):
    counted = count_flops(
      lambda v, plan=plan: module.apply(v, images, plan=plan), variables
    )
    ends = 3 * (16 * 48 * 16 + 16 * 5)
    formula = 3 * models.model_flops(CONFIG, plan) + ends
    # Matching and the class token's attention row come on top, and no more.
    extra = (3 * (9 * 8 * 8) + 3 * 2 * 13 * 8) if plan else 0
    assert counted == 2 * (formula + extra)


@pytest.mark.parametrize(
  ('name', 'parameters'),
  [
    ('vit-ti16', 5_717_416),
    ('vit-s16', 22_050_664),
    ('vit-b16', 86_567_656),
    ('vit-l16', 304_326_632),
    ('vit-h14', 632_045_800),
  ],
)
def test_published_sizes(name, parameters):
  module = models.PRESETS[name].build()
  images = jnp.zeros((1, 224, 224, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters


def test_tome_on_vit_s16_ends_with_41_tokens():
  config = models.PRESETS['vit-s16']
  counts = models.token_counts(config, pruners.tome_plan(13, depth=12))
  assert counts[0] == (197, 184) and counts[-1] == (54, 41)


def test_bad_plans_list_all_causes():
  module, variables, images = setup()
  plan = (
    ('block_3.after_mlp', MERGE),
    ('block_1.after_atention', MERGE),
    ('embed', MERGE),
    ('block_0.after_mlp', pruners.Random()),
  )
  with pytest.raises(ValueError) as error:
    module.apply(variables, images, plan=plan)
  said = str(error.value)
  assert "unknown site 'block_3.after_mlp'" in said
  assert "try 'block_1.after_attention'" in said
  assert "ToMe needs ['keys'], and site 'embed' gives ['pixels']" in said
  assert "Random needs ['rng']" in said


def test_a_plan_of_another_depth_is_one_cause():
  module, variables, images = setup()
  with pytest.raises(ValueError) as error:
    module.apply(variables, images, plan=pruners.tome_plan(1, depth=24))
  head, cause = str(error.value).splitlines()
  assert head == 'this plan cannot run:'
  first, last = (f"'block_{i}.after_attention'" for i in (3, 23))
  assert f'unknown 21 sites, {first} to {last}; sites' in cause
  assert 'i from 0 to 2' in cause
  everywhere = tuple(
    (f'block_{i}.after_mlp', pruners.Random()) for i in range(3)
  )
  with pytest.raises(ValueError) as error:
    module.apply(variables, images, plan=everywhere)
  _, cause = str(error.value).splitlines()
  want = ', '.join(f"'block_{i}.after_mlp'" for i in range(3))
  assert f"Random needs ['rng'], and sites {want} give [" in cause


def test_bad_sizes():
  module, variables, images = setup()
  with pytest.raises(ValueError, match='resize them'):
    module.apply(variables, images[:, :12])
  with pytest.raises(ValueError, match='not divisible into patches'):
    models.ViTConfig(image_size=30)
  with pytest.raises(ValueError, match="set pool='mean'"):
    models.ViTConfig(class_token=False)
