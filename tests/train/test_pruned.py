"""Training with pruners inside, and learning DiffRate's rates."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.io import tiny_models
from tokpress_jax import config as config_lib
from tokpress_jax import load, pruners, types
from tokpress_jax.data.dataset import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.models import ViTConfig, model_flops, token_counts
from tokpress_jax.pruners.inside_vit import learned_rates
from tokpress_jax.train.tasks import ClassifierTask, DiffRateTask

B, CLASSES = 4, 3
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=8,
  channels=1,
  num_classes=CLASSES,
)
MODEL = ViTConfig(
  image_size=8, channels=1, patch=2, width=8, heads=2, depth=3, classes=CLASSES
)
RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.integers(0, 256, size=(B, 8, 8, 1), dtype=np.uint8),
  'label': np.array([0, 1, 2, 0], np.int32),
  'valid': np.array([True, True, True, False]),
}
IMAGES = jnp.asarray(BATCH['image'] / 127.5 - 1, jnp.float32)


@functools.cache
def variables():
  """Of a classifier, no tensor at its initial value."""
  drawn = jax.jit(MODEL.build().init)(jax.random.key(0), IMAGES)
  leaves, tree = jax.tree.flatten(drawn)
  keys = jax.random.split(jax.random.key(1), len(leaves))
  return jax.tree.unflatten(
    tree,
    [
      x + 0.2 * jax.random.normal(k, x.shape)
      for k, x in zip(keys, leaves, strict=True)
    ],
  )


def planned(**fields):
  return dataclasses.replace(MODEL, plan=pruners.PlanConfig(**fields))


@pytest.mark.parametrize(
  'fields',
  [
    {'method': 'tome', 'r': 4},
    {'method': 'random', 'flops': 0.6},
    {
      'method': 'diffrate',
      'prune_kept': (17, 12, 6),
      'merge_kept': (17, 9, 4),
    },
  ],
)
def test_gradients_go_through_the_pruners_in_one_compilation(fields):
  task = ClassifierTask(model=planned(**fields), smoothing=0.0).bind(INFO)
  (program,) = task.programs()
  seen = []

  @jax.jit
  def step(params, key):
    seen.append(1)

    def loss(params):
      return program.loss({'params': params}, BATCH, key, jnp.int32(0))[0]

    value, gradient = jax.value_and_grad(loss)(params)
    return value, gradient

  params = variables()['params']
  first, gradient = step(params, jax.random.key(0))
  for leaf in jax.tree.leaves(gradient):
    assert np.isfinite(leaf).all()
  # Also to what only the pruned tokens pass through: the last layer's MLP.
  last = gradient['stack']['layers']['mlp']['fc1']['kernel'][-1]
  assert float(jnp.abs(last).max()) > 1e-5
  # The slope along it, so near that the pruners decide alike.
  norm = float(optax.tree_utils.tree_norm(gradient))
  moved = lambda by: jax.tree.map(
    lambda p, g: p + by / norm * g, params, gradient
  )
  ahead, behind = (step(moved(x), jax.random.key(0))[0] for x in (1e-4, -1e-4))
  np.testing.assert_allclose((ahead - behind) / 2e-4, norm, rtol=0.02)
  drawn, _ = step(params, jax.random.key(1))
  assert (drawn == first) == (fields['method'] != 'random')
  assert len(seen) == 1


def test_evaluation_and_the_model_use_the_plan():
  config = planned(method='tome', r=5)
  task = ClassifierTask(model=config).bind(INFO)
  found = jax.jit(task.evaluate)(variables(), BATCH, jax.random.key(0))
  run = jax.jit(
    lambda v, plan: config.build().apply(v, IMAGES, plan=plan),
    static_argnums=1,
  )
  want = run(variables(), pruners.tome_plan((5, 5, 3), depth=3))
  assert [r.index.shape[1] for r in want.reductions] == [12, 7, 4]
  right = np.argmax(want.logits, -1) == BATCH['label']
  np.testing.assert_allclose(found['accuracy'], (right[:3].sum(), 3))
  np.testing.assert_array_equal(run(variables(), None).logits, want.logits)
  whole = run(variables(), ())
  assert not whole.reductions
  assert float(jnp.abs(whole.logits - want.logits).max()) > 1e-2


def test_a_plan_goes_with_the_model(tmp_path):
  config = planned(method='tome', r=2.5)
  text = json.dumps(config_lib.to_json(config))
  assert config_lib.from_json(json.loads(text), ViTConfig) == config
  export.export(config.build(), variables(), tmp_path / 'm', name='tiny')
  assert load(tmp_path / 'm').module.config == config
  task = ClassifierTask(model=MODEL, plan_from=str(tmp_path / 'm')).bind(INFO)
  assert task.model.plan == config.plan
  with pytest.raises(UserError, match=r'no ViT yet.*--task\.plan-from'):
    ClassifierTask(model=MODEL, plan_from=str(tmp_path / 'no')).bind(INFO)
  other = tiny_models.one_d()
  export.export(other.module, other.variables, tmp_path / 't', name='t')
  with pytest.raises(UserError, match=r'is a \w+, and plan_from takes a'):
    ClassifierTask(model=MODEL, plan_from=str(tmp_path / 't')).bind(INFO)
  plain = dataclasses.replace(
    planned(method='top_attention', r=1), class_token=False, pool='mean'
  )
  with pytest.raises(UserError, match="needs \\['attention_row'\\]"):
    ClassifierTask(model=plain).bind(INFO)


@pytest.fixture(scope='module')
def classifier(tmp_path_factory):
  where = tmp_path_factory.mktemp('classifier') / 'm'
  export.export(MODEL.build(), variables(), where, name='tiny')
  return str(where)


def test_masks_stand_for_tokens_that_leave():
  rates = pruners.LearnedRates(depth=3, tokens=16)
  learned = rates.init(jax.random.key(0))

  @jax.jit
  def masked(params):
    step = lambda state, row, layer: rates.apply(
      params, state, row, layer=layer, method='step'
    )
    return MODEL.build().apply(variables(), IMAGES, step, method='masked')

  # Even rates prune what they would merge, so that nothing merges.
  counts = rates.apply(learned, method='counts')
  plan = pruners.diffrate_plan(*counts, tokens=17)
  assert token_counts(MODEL, plan) == ((17, 17), (17, 10), (10, 10))
  run = jax.jit(lambda v: MODEL.build().apply(v, IMAGES, plan=plan).logits)
  want = run(variables())
  np.testing.assert_allclose(masked(learned), want, atol=2e-5)
  whole = MODEL.build().apply(variables(), IMAGES).logits
  assert float(jnp.abs(want - whole).max()) > 1e-2


def test_rates_follow_the_target_and_go_with_the_model(classifier, tmp_path):
  task = DiffRateTask(classifier=classifier, flops=0.6).bind(INFO)
  (program,) = task.programs()
  frozen = task.constants()
  optimizer = optax.adam(0.2)

  @jax.jit
  def step(params, state):
    def loss(params):
      found = {'params': params, 'frozen': frozen}
      value, metrics, _ = program.loss(found, BATCH, None, jnp.int32(0))
      return value, metrics

    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, metrics

  params = task.init(jax.random.key(0))['params']
  state = optimizer.init(params)
  shares = []
  for _ in range(60):
    params, state, metrics = step(params, state)
    shares.append(float(metrics['flops']))
  assert abs(shares[0] - 0.6) > 0.1
  assert abs(shares[-1] - 0.6) < 0.03
  # Not the FLOPs alone: the classifier's loss reaches the rates too.
  assert float(jnp.abs(params['prune'] - params['merge']).max()) > 0

  found = {'params': params, 'frozen': frozen}
  evaluated = jax.jit(task.evaluate)(found, BATCH, jax.random.key(0))
  assert float(evaluated['flops'][0]) / 3 == pytest.approx(shares[-1], abs=0.03)
  model = task.export(found)
  assert isinstance(model, types.Loaded)
  own = {'params': params}
  prune, merge = task.rates.apply(own, method='counts')
  want = pruners.diffrate_plan(prune, merge, tokens=17)
  export.export(model.module, model.variables, tmp_path / 'm', name='tiny')
  again = load(tmp_path / 'm')
  assert again.module.config.pairs == want
  share = model_flops(MODEL, want) / model_flops(MODEL, ())
  kept = learned_rates.expected_flops(
    task.rates.apply(own), tokens=17, width=8, hidden=32
  )
  assert share == pytest.approx(float(kept) / model_flops(MODEL, ()), abs=1e-6)
  jax.tree.map(
    np.testing.assert_array_equal, again.variables, dict(variables())
  )
  # And a fine-tuning takes them up.
  tuned = ClassifierTask(model=MODEL, plan_from=str(tmp_path / 'm')).bind(INFO)
  assert tuned.model.pairs == want


def test_flops_count_after_the_free_steps(classifier):
  task = DiffRateTask(
    classifier=classifier, flops=0.6, weight=7.0, free_steps=2
  ).bind(INFO)
  (program,) = task.programs()
  frozen = task.constants()
  params = task.init(jax.random.key(0))['params']
  run = jax.jit(
    lambda step: program.loss(
      {'params': params, 'frozen': frozen}, BATCH, None, step
    )
  )
  for step, weight in ((1, 0.0), (2, 7.0)):
    loss, found, _ = run(jnp.int32(step))
    want = found['cross_entropy'] + weight * (found['flops'] - 0.6) ** 2
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert abs(float(found['flops']) - 0.6) > 0.05


def test_what_rates_cannot_be_learned_for_is_refused(classifier, tmp_path):
  with pytest.raises(UserError, match=r'--task\.classifier runs/x'):
    DiffRateTask().bind(INFO)
  with pytest.raises(UserError, match=r'keeps 0\.\d+, so give a share'):
    DiffRateTask(classifier=classifier, flops=0.1).bind(INFO)
  with pytest.raises(UserError, match=r"3 classes; .*the data's 5 classes"):
    DiffRateTask(classifier=classifier).bind(
      dataclasses.replace(INFO, num_classes=5)
    )
