"""Pruners in somebody's own JAX code; each test is an example to copy.

jit · a loop over layers · caches and labels · vmap · grad · learned choices ·
shard_map · NNX. The first lines of a body are the example, the last compare it
with NumPy or with a model that prunes nothing.

Shapes: B rows, N tokens, D features, A heads, E head features, C crops.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from jax.test_util import check_grads

from tokpress_jax import models, pruners
from tokpress_jax.io import any_resolution, images
from tokpress_jax.pruners import before_llm, budgets, scores, selectors, testing
from tokpress_jax.types import Ratio, Signals, Tokens


def draw(*shape, seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


def longest(x, count):
  """The slots [B, count] of the longest vectors, in their order, by NumPy."""
  order = np.argsort(-np.linalg.norm(x, axis=-1), axis=-1)[..., :count]
  return np.sort(order, axis=-1)


def take(x, slots):
  return np.take_along_axis(np.asarray(x), slots[..., None], axis=-2)


# jit.


def test_a_pruner_is_a_static_argument():
  """Equal pruners share one program; another budget is another program."""
  traced = []

  @functools.partial(jax.jit, static_argnames='pruner')
  def pool(x, pruner):
    traced.append(pruner)
    tokens, _ = pruner(Tokens.create(x))
    return tokens.features.mean(axis=1)

  x = draw(2, 12, 4)
  pooled = pool(x, pruners.TopNorm(budget=3))
  pool(draw(2, 12, 4, seed=1), pruners.TopNorm(budget=3))
  pool(x, pruner=pruners.TopNorm(budget=Ratio(ratio=0.5)))

  np.testing.assert_allclose(
    pooled, take(x, longest(x, 3)).mean(axis=1), atol=1e-6
  )
  assert [p.budget for p in traced] == [3, Ratio(ratio=0.5)]


def test_tokens_may_be_constants_of_the_program():
  tokens = Tokens.create(draw(2, 12, 4))
  pruner = pruners.ToMe(budget=8)
  merge = jax.jit(lambda keys: pruner(tokens, Signals(keys=keys))[0].features)

  keys = draw(2, 3, 12, 5, seed=1)
  want, _ = pruner(tokens, Signals(keys=keys))
  np.testing.assert_allclose(merge(keys), want.features, atol=1e-6)


# Inside layers of your own.


def attention(tokens, w):
  """One head; a merged key weighs as much as what it stands for."""
  q, k, v = (tokens.features @ w[i] for i in range(3))
  logits = jnp.einsum('bne,bme->bnm', q, k) / jnp.sqrt(q.shape[-1])
  logits = logits + pruners.log_mass_bias(tokens)[:, 0]
  logits = jnp.where(tokens.valid[:, None], logits, -jnp.inf)
  mixed = jnp.einsum('bnm,bme->bne', jax.nn.softmax(logits), v)
  return tokens.replace(features=tokens.features + mixed), k


def network(weights, x, plan):
  """Layers in a Python loop: between them N may change, as it is static."""
  tokens = Tokens.create(x)
  total = pruners.identity(tokens)
  for layer, w in enumerate(weights):
    tokens, keys = attention(tokens, w)
    for site, pruner in plan:
      if site == layer:
        tokens, step = pruner(tokens, Signals(keys=keys[:, None]))
        total = pruners.compose(total, step)
  return tokens, total


def test_a_plan_in_a_loop_of_layers_and_dense_outputs():
  plan = ((1, pruners.ToMe(budget=6)),)
  weights = 0.5 * draw(3, 3, 4, 4)
  x = jnp.repeat(draw(2, 6, 4, seed=1), 2, axis=1)  # six pairs of equals

  @functools.partial(jax.jit, static_argnames='plan')
  def features(weights, x, plan):
    tokens, total = network(weights, x, plan)
    return tokens, pruners.unmerge(total, tokens.features)  # [B, N, D]

  tokens, dense = features(weights, x, plan)

  # Merging what is equal changes nothing.
  whole, _ = features(weights, x, ())
  assert tokens.features.shape == (2, 6, 4) and whole.features.shape == x.shape
  np.testing.assert_array_equal(tokens.mass, 2)
  np.testing.assert_allclose(dense, whole.features, atol=1e-5)


def test_caches_and_labels_move_along():
  pruner = pruners.TopNorm(budget=5)
  x, labels = draw(2, 12, 4), jnp.arange(24).reshape(2, 12)
  cache = {'keys': draw(2, 3, 12, 6, seed=1), 'values': draw(2, 3, 12, 6)}

  @jax.jit
  def prune(x, labels, cache):
    reduction = pruner.plan(Tokens.create(x), Signals())  # moves nothing
    move = lambda y: pruners.apply(reduction, y)  # any [B, N, ...]
    heads = lambda y: move(y.swapaxes(1, 2)).swapaxes(1, 2)  # [B, A, N, E]
    return move(labels), jax.tree.map(heads, cache), reduction.index

  labels, cache_left, index = prune(x, labels, cache)

  slots = longest(x, 5)
  np.testing.assert_array_equal(index, slots)
  np.testing.assert_array_equal(labels, slots + np.array([[0], [12]]))
  for name, left in cache_left.items():
    np.testing.assert_array_equal(left, take(cache[name], slots[:, None]))


def test_a_merge_moves_each_array_in_its_own_mode():
  """Features by mass, areas by sum, the representative's label."""
  tokens = Tokens.create(jnp.array([[[1.0], [0.0], [3.0], [0.1]]]))
  keys = jnp.array([[[[1.0, 0], [0, 1], [1, 0.1], [0, -1]]]])
  pruner = pruners.PiToMe(budget=pruners.Remove(tokens=1), partition='all')
  merged, reduction = jax.jit(pruner)(tokens, Signals(keys=keys))
  area = pruners.apply(reduction, jnp.array([[0.5, 1, 2, 4]]), mode='sum')
  back = pruners.unmerge(reduction, merged.features)

  np.testing.assert_allclose(sorted(merged.features[0, :, 0]), [0, 0.1, 2])
  assert sorted(area[0].tolist()) == [1, 2.5, 4]
  np.testing.assert_allclose(back[0, :, 0], [2, 0, 2, 0.1])


# vmap.


def test_vmap_over_crops():
  """[B, C, N, D]: each crop is pruned by itself, padded ones too."""
  x = draw(2, 3, 8, 4)
  valid = jnp.arange(8)[None] < jnp.array([8, 5, 6])[:, None]  # [C, N]

  def prune(x, valid):
    valid = jnp.broadcast_to(valid, x.shape[:2])
    tokens, _ = pruners.TopNorm(budget=3)(Tokens.create(x, valid=valid))
    return tokens

  crops = jax.jit(jax.vmap(prune, in_axes=(1, 0), out_axes=1))(x, valid)

  assert crops.features.shape == (2, 3, 3, 4)
  for crop, n in enumerate((8, 5, 6)):
    inside = x[:, crop, :n]
    np.testing.assert_array_equal(
      crops.features[:, crop], take(inside, longest(inside, 3))
    )


def test_images_of_any_size_before_a_language_model():
  """A thumbnail and crops of each; a batch is what its images are alone."""
  config = models.ViTConfig(
    image_size=16, patch=4, width=16, depth=2, heads=2, classes=0
  )
  module = config.build()
  weights = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))
  pruner = before_llm.HiRED(budget=24)

  @jax.jit
  def choose(crops, valid, layout):
    pixels = images.to_float(crops.reshape(-1, 16, 16, 3))
    tokens, signals = module.apply(
      weights, pixels, needs=pruner.needs, method='observe'
    )
    tokens, signals = pruners.join_crops(tokens, signals, crops=5, valid=valid)
    return pruner(pruners.place_crops(tokens, layout=layout), signals)

  def keep(pictures):
    cut = any_resolution.cut_crops(pictures, size=16, patch=4)
    return choose(cut.pixels, cut.valid, cut.layout)

  shapes = ((32, 16), (17, 60))
  noise = np.random.default_rng(0).integers(0, 256, (2, 60, 60, 3), np.uint8)
  pictures = [x[: s[0], : s[1]] for x, s in zip(noise, shapes, strict=True)]
  both, plan = keep(pictures)

  # Shares of crops are rounded down.
  assert both.features.shape == (2, 24, 16)
  assert (both.valid.sum(axis=1) >= 24 - 4).all()
  for i, picture in enumerate(pictures):
    crops = set(np.unique(both.owner[i][both.valid[i]]))
    assert crops == set(range(3 + i))  # Two below each other, three in a row.
    testing.compare((both, plan), keep([picture] * 2), rows=[i, i])


def test_vmap_over_heads_lets_each_keep_its_own_keys():
  keys, values = draw(2, 3, 12, 6), draw(2, 3, 12, 6, seed=1)

  def prune(keys, values):  # of one head, [B, N, E]
    tokens, reduction = pruners.TopNorm(budget=4)(Tokens.create(keys))
    return tokens.features, pruners.apply(reduction, values)

  head = jax.vmap(prune, in_axes=1, out_axes=1)
  keys_left, values_left = jax.jit(head)(keys, values)

  slots = longest(keys, 4)  # [B, A, 4]
  assert len({tuple(row) for row in slots[0].tolist()}) == 3
  np.testing.assert_array_equal(keys_left, take(keys, slots))
  np.testing.assert_array_equal(values_left, take(values, slots))


# grad.


def test_gradients_through_a_hard_pruner_reach_what_it_kept():
  """Differentiate by features: `Tokens` has integers and masks too."""
  x = draw(3, 6, 4)

  def loss(x):
    tokens, _ = pruners.TopNorm(budget=3)(Tokens.create(x))
    return jnp.sum(tokens.features**2)

  gradient = jax.jit(jax.grad(loss))(x)

  want, rows, slots = np.zeros(x.shape), np.arange(3)[:, None], longest(x, 3)
  want[rows, slots] = 2 * np.asarray(x)[rows, slots]
  np.testing.assert_allclose(gradient, want, atol=1e-6)


def choose(w, x):
  """Gates [B, N]: two tokens of a row are 1, and all have a gradient."""
  score = x @ w
  tokens = Tokens.create(x)
  count = budgets.row_counts(2, tokens)
  none = jnp.zeros_like(tokens.valid)
  kept, _ = selectors.top(
    score, count=count, valid=tokens.valid, protected=none
  )
  soft = scores.soft_top(score, count=count, valid=tokens.valid)
  return scores.straight_through(kept, soft)


def test_a_score_learns_through_a_hard_choice():
  """Two tokens of a row carry the answer; the score finds out which."""
  x = draw(64, 8, 3)
  told = jnp.zeros((64, 8)).at[:, jnp.array([2, 5])].set(1)
  x = x.at[..., 1].add(4 * told)  # feature 1 gives them away
  answer = jnp.sum(x[..., 0] * told, axis=1)

  def loss(w):
    return jnp.mean((jnp.sum(x[..., 0] * choose(w, x), axis=1) - answer) ** 2)

  @jax.jit
  def train(w):
    step = lambda w, _: (w - 0.1 * jax.grad(loss)(w), loss(w))
    return jax.lax.scan(step, w, length=100)

  start = jnp.array([0.3, 0.0, 0.3])
  learned, losses = train(start)

  right = lambda w: float(jnp.mean(jnp.sum(choose(w, x) * told, axis=1) / 2))
  assert right(start) < 0.4 and right(learned) > 0.95
  assert losses[-1] < 0.1 * losses[0]


def test_gradients_through_soft_assignment_reach_the_metric():
  """Every token spreads over the kept ones, by weights that learn."""
  x, metric = draw(2, 6, 3), draw(2, 6, 4, seed=1)
  kept = jnp.broadcast_to(jnp.arange(6) % 3 == 0, (2, 6))

  @jax.jit
  def loss(metric):
    tokens = Tokens.create(x)
    soft = pruners.soft_assign(
      metric, tokens, kept=kept, capacity=2, temperature=0.5
    )
    return jnp.sum(
      pruners.reduce_tokens(tokens, soft, mode='mass').features ** 2
    )

  gradient = jax.grad(loss)(metric)

  check_grads(loss, (metric,), order=1, modes=['rev'], atol=2e-2, rtol=2e-2)
  assert (jnp.abs(gradient).max(axis=-1) > 1e-4).all()  # dropped tokens too


# Learned pruners, and those of a ViT.


@functools.cache
def vit():
  config = models.ViTConfig(
    image_size=16, patch=4, width=16, depth=2, heads=2, classes=3
  )
  module = config.build()
  images = jax.random.uniform(jax.random.key(0), (2, 16, 16, 3), minval=-1)
  shapes = jax.eval_shape(module.init, jax.random.key(1), images)
  leaves, tree = jax.tree.flatten(shapes)
  drawn = [0.3 * draw(*x.shape, seed=i) for i, x in enumerate(leaves)]
  return module, jax.tree.unflatten(tree, drawn), images


LEARNER = pruners.TokenLearner(tokens=4, bottleneck=8)


def test_a_learned_pruner_trains_inside_a_vit():
  """Bind its variables inside the jitted function, and put that into a plan."""
  module, variables, images = vit()
  learned = LEARNER.init(jax.random.key(2), Tokens.create(draw(1, 17, 16)))

  def loss(learned):
    plan = (('block_0.after_attention', LEARNER.bind(learned)),)
    out = module.apply(variables, images, plan=plan)
    return jnp.sum(out.logits[:, 0]), out.tokens.features.shape

  gradient, shape = jax.jit(jax.grad(loss, has_aux=True))(learned)

  assert shape == (2, 1 + 4, 16)
  for name in ('mask_in', 'mask_out'):
    assert jnp.abs(gradient['params'][name]['kernel']).max() > 1e-6


# shard_map.


def test_each_of_eight_devices_prunes_its_rows():
  x = draw(16, 6, 4)
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = PartitionSpec('data')

  def local(x):  # two rows
    tokens, reduction = pruners.TopNorm(budget=3)(Tokens.create(x))
    mean = jax.lax.pmean(tokens.features.mean(), 'data')
    return tokens.features, reduction.index, mean

  prune = jax.shard_map(
    local, mesh=mesh, in_specs=rows, out_specs=(rows, rows, PartitionSpec())
  )
  features, index, mean = jax.jit(prune)(x)

  assert len(features.sharding.device_set) == 8
  want = take(x, longest(x, 3))
  np.testing.assert_array_equal(index, longest(x, 3))
  np.testing.assert_array_equal(features, want)
  np.testing.assert_allclose(mean, want.mean(), atol=1e-6)


# NNX.


@pytest.fixture
def nnx():
  # flax 0.12.8's does not import on jax 0.11.
  return pytest.importorskip('flax.nnx', exc_type=ImportError)


def test_a_frozen_pruner_in_an_nnx_module(nnx):
  class Encoder(nnx.Module):
    def __init__(self, pruner, *, rngs):
      self.linear = nnx.Linear(4, 4, rngs=rngs)
      self.pruner = pruner  # hashable, so static

    def __call__(self, x):
      tokens, reduction = self.pruner(Tokens.create(self.linear(x)))
      return tokens.features.mean(axis=1), reduction.index

  model = Encoder(pruners.TopNorm(budget=3), rngs=nnx.Rngs(0))
  x = draw(2, 8, 4)

  @nnx.jit
  def step(model, x):
    loss = lambda model: jnp.sum(model(x)[0] ** 2)
    return model(x), nnx.grad(loss)(model)

  (pooled, index), gradient = step(model, x)

  y = model.linear(x)
  np.testing.assert_array_equal(index, longest(y, 3))
  np.testing.assert_allclose(pooled, take(y, longest(y, 3)).mean(1), atol=1e-5)
  want = 2 * np.asarray(pooled).sum(axis=0)
  np.testing.assert_allclose(gradient.linear.bias[...], want, atol=1e-5)


def test_a_learned_pruner_in_an_nnx_module(nnx):
  class Encoder(nnx.Module):
    def __init__(self, *, rngs):
      self.linear = nnx.Linear(4, 4, rngs=rngs)
      self.learner = nnx.bridge.ToNNX(LEARNER, rngs=rngs)

    def __call__(self, x):
      tokens, _ = self.learner(Tokens.create(self.linear(x)))
      return tokens.features

  x = draw(2, 8, 4)
  model = Encoder(rngs=nnx.Rngs(0))
  model.learner.lazy_init(Tokens.create(x))  # makes its parameters

  @nnx.jit
  def step(model, x):
    loss = lambda model: jnp.sum(model(x) ** 2)
    return model(x), nnx.grad(loss)(model)

  features, gradient = step(model, x)

  # The same parameters, run by Linen.
  params = nnx.to_pure_dict(nnx.state(model.learner, nnx.Param))
  y = model.linear(x)

  @jax.jit
  def linen(params):
    return LEARNER.apply({'params': params}, Tokens.create(y))[0].features

  np.testing.assert_allclose(features, linen(params), atol=1e-5)
  want = jax.grad(lambda params: jnp.sum(linen(params) ** 2))(params)
  got = nnx.to_pure_dict(gradient)['learner']
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, want
  )


def test_a_vit_with_a_plan_through_the_bridge(nnx):
  module, variables, images = vit()
  plan = (('block_0.after_attention', pruners.ToMe(budget=10)),)
  model = nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(images)
  state = nnx.state(model, nnx.Param)
  nnx.replace_by_pure_dict(state, variables['params'])  # loaded ones, say
  nnx.update(model, state)

  classify = nnx.jit(lambda model, images: model(images, plan=plan))
  out = classify(model, images)

  want = jax.jit(lambda v, x: module.apply(v, x, plan=plan))(variables, images)
  assert out.tokens.features.shape == (2, 1 + 10, 16)
  assert out.sites == ('block_0.after_attention',)
  np.testing.assert_allclose(out.logits, want.logits, atol=1e-4)


def test_a_linen_module_of_ones_own():
  class Encoder(nn.Module):
    pruner: pruners.PrunerProtocol

    @nn.compact
    def __call__(self, x):
      tokens, _ = self.pruner(Tokens.create(nn.Dense(4)(x)))
      return tokens.features

  x = draw(2, 8, 4)
  module = Encoder(pruners.TopNorm(budget=3))
  features, variables = jax.jit(module.init_with_output)(jax.random.key(0), x)

  y = nn.Dense(4).apply({'params': variables['params']['Dense_0']}, x)
  np.testing.assert_allclose(features, take(y, longest(y, 3)), atol=1e-6)
  learned = Encoder(LEARNER)
  params = jax.jit(learned.init)(jax.random.key(0), x)['params']
  assert set(params) == {'Dense_0', 'pruner'}
