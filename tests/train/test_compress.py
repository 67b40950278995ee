"""Compressors between a frozen tower and a reader: what a step trains."""

import dataclasses
import functools
import pathlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tokpress_jax import config as config_lib
from tokpress_jax import load, losses
from tokpress_jax.config import Config
from tokpress_jax.data.dataset import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.models import CompressorConfig, ReaderConfig, ViTConfig
from tokpress_jax.pruners.compressors import Curriculum, nested_loss
from tokpress_jax.train import tree
from tokpress_jax.train.checkpoint import Checkpoints
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.dry_run import dry_run
from tokpress_jax.train.loop import fit
from tokpress_jax.train.tasks import CompressorTask
from tokpress_jax.train.tasks.compress import stage

ROOT = pathlib.Path(__file__).resolve().parents[2]
B, CLASSES, SIZE = 6, 3, 8
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=1,
  num_classes=CLASSES,
)
TOWER = ViTConfig(
  image_size=SIZE,
  channels=1,
  patch=2,
  width=16,
  heads=2,
  depth=3,
  mlp_ratio=1.0,
  classes=CLASSES,
)
CURRICULUM = Curriculum(strides=(8, 2, 1), layers=(0, 1, 0), until=(2, 4))
METHODS = {
  'pool': (16, 4, 1),
  'neighbours': (16,),
  'random': (9, 4),
  'stride': (9, 4),
  'mqt': (16,),
  'token_flex': (16, 9, 4),
  'token_packer': (4,),
  'quecc': (4,),
  'hicom_local': (4,),
  'hicom_global': (3,),
  'slime': (4,),
}
COUNTING = {
  'neighbours': 'curriculum',
  'mqt': 'prefix',
  'token_flex': 'drawn',
}


def step_batch(seed, size=B):
  """Images whose brightness is their class."""
  rng = np.random.default_rng(seed)
  label = rng.integers(CLASSES, size=size).astype(np.int32)
  noise = rng.integers(0, 60, (size, SIZE, SIZE, 1))
  image = (noise + 90 * label[:, None, None, None]).astype(np.uint8)
  return {'image': image, 'label': label, 'index': np.arange(size)}


class Stream:
  def __init__(self, config, *, batch_size, seed, **shares):
    del config, shares
    self.info, self._batch, self._seed = INFO, batch_size, seed

  def batches(self, start_step=0):
    step = start_step
    while True:
      yield step_batch([self._seed, step], self._batch)
      step += 1


def eval_batches(config, *, split, batch_size, **shares):
  del config, split, shares
  batch = step_batch(99, batch_size)
  yield {**batch, 'valid': np.arange(batch_size) < batch_size - 1}


DATA = types.SimpleNamespace(Stream=Stream, eval_batches=eval_batches)


@pytest.fixture(scope='module')
def tower(tmp_path_factory):
  """A tower, no tensor at its initial value."""
  module = TOWER.build()
  images = jnp.zeros((1, SIZE, SIZE, 1))
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(rng.normal(size=x.shape) * 0.3, jnp.float32)
  where = tmp_path_factory.mktemp('tower') / 'm'
  export.export(module, jax.tree.map(draw, shapes), where, name='tiny')
  return str(where)


def task_of(tower, method='pool', **options):
  model = ReaderConfig(
    layer=1,
    compressor=CompressorConfig(
      method=method, counts=options.pop('counts', METHODS[method]), heads=2
    ),
    width=8,
    heads=2,
  )
  options = {
    'counting': COUNTING.get(method, 'nested'),
    'curriculum': CURRICULUM,
    'shown': (16, 9, 4, 1),
    **options,
  }
  return CompressorTask(model=model, tower=tower, **options)


def started(task):
  """Variables of step 0, with the tower's weights."""
  params = dict(jax.jit(task.init)(jax.random.key(0))['params'])
  theirs = tree.named(task.start()['params'])
  take = lambda name, x: theirs.get(f'tower/{name}', x)
  return {**params, 'tower': tree.map_named(take, params['tower'])}


@pytest.mark.parametrize('method', METHODS)
def test_every_compressor_trains(tower, method):
  task = task_of(tower, method).bind(INFO)
  (program,) = task.programs()
  params = started(task)
  frozen = params.pop('tower')
  optimizer = optax.adam(1e-2)
  batch = step_batch(0)
  traces = []

  @jax.jit
  def update(params, state, step):
    traces.append(1)

    def loss(params):
      both = {'params': {**params, 'tower': frozen}}
      key = jax.random.fold_in(jax.random.key(1), step)
      value, metrics, _ = program.loss(both, batch, key, step)
      return value, metrics

    gradient, metrics = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, updates), state, metrics, gradient

  state = optimizer.init(params)
  seen = []
  for i in range(3):
    params, state, metrics, gradient = update(params, state, jnp.int32(i))
    seen.append(metrics)
  assert len(traces) == 1
  for name, leaf in tree.named(gradient).items():
    assert np.isfinite(leaf).all(), name
  assert float(optax.tree_utils.tree_norm(gradient['compressor'])) > 0
  legal = task.model.legal
  if task.counting == 'nested' and method != 'slime':
    want = np.mean(task.model.compressor.counts)
    assert float(seen[0]['tokens']) == pytest.approx(want)
  assert all(1 <= float(m['tokens']) <= legal[0] for m in seen)


def config_of(task, **train):
  return Config(
    name='tiny',
    task=task,
    train=TrainConfig(
      **{'steps': 40, 'batch_size': 8, 'log_every': 1, **train}
    ),
    optim=OptimConfig(learning_rate=1e-2),
  )


def test_a_run_learns_resumes_and_leaves_the_tower_alone(tower, tmp_path):
  task = task_of(tower, counts=(16, 4), shown=(9, 4))
  config = config_of(task, checkpoint_every=20, ema_decay=0.9)
  devices = jax.devices()[:1]
  run = functools.partial(fit, devices=devices, data=DATA)
  half = dataclasses.replace(
    config, train=dataclasses.replace(config.train, steps=20)
  )
  schedule = dataclasses.replace(config.optim, decay_steps=40)
  half, config = (
    dataclasses.replace(c, optim=schedule) for c in (half, config)
  )
  first = run(half, tmp_path / 'a')
  found = run(config, tmp_path / 'a')  # goes on
  whole = run(config, tmp_path / 'b')
  rate = {'images_per_second': 0}
  assert {**found, **rate} == {**whole, **rate}
  assert found['loss'] < 0.5 * np.log(CLASSES) and first['loss'] > found['loss']
  # At each number of tokens, and what the same reader makes of pruned ones.
  names = {f'eval/accuracy_{n}' for n in (16, 4)}
  names |= {f'eval/{m}_{n}' for m in ('random', 'stride') for n in (16, 9, 4)}
  assert names == {n for n in found if n.startswith('eval/')}
  assert found['eval/accuracy_16'] == found['eval/random_16'] > 0.8
  at = f'{tmp_path}/a/checkpoints'
  with Checkpoints(at, read_only=True) as checkpoints:
    state = checkpoints.load('variables').state['variables']
  trained = tree.named(state['params']['tower'])
  given = tree.named(load(tower).variables['params'])
  assert len(trained) > 10
  for name, x in trained.items():
    np.testing.assert_array_equal(x, given[name], err_msg=name)


def test_nested_training_is_m3s_loss(tower):
  task = task_of(tower).bind(INFO)
  (program,) = task.programs()
  variables, batch = {'params': started(task)}, step_batch(0)
  key = jax.random.key(2)
  loss, metrics, _ = jax.jit(program.loss)(variables, batch, key, jnp.int32(0))

  @jax.jit
  def oracle(variables):
    seen, _ = task._see(variables, batch, key)
    module = task.model.build()

    def answers(reader, x):
      """The loss of tokens that are pooled already, as if they were all."""
      y = reader.norm_in(x) + reader.positions()[None, : x.shape[1]]
      ask = jnp.broadcast_to(reader.question[None, None], (B, 1, 8))
      y, _ = reader.stack(jnp.concatenate([y, ask], axis=1))
      logits = reader.head(reader.norm_out(y[:, -1]))
      return losses.cross_entropy(logits, batch['label'])

    def total(reader):
      x = reader.compressor(seen, count=16)[0]  # as they are, projected
      return nested_loss(
        lambda y: answers(reader, y), x, grid=(4, 4), scales=(16, 4, 1)
      )

    return module.apply(variables, method=total)

  np.testing.assert_allclose(loss, oracle(variables), rtol=1e-5)
  assert float(metrics['tokens']) == 7


def test_a_prefix_is_as_many_tokens(tower):
  """What training masks is what inference leaves out."""
  task = task_of(tower, 'mqt').bind(INFO)
  variables = {'params': started(task)}

  @jax.jit
  def run(variables):
    seen, _ = task._see(variables, step_batch(0), jax.random.key(0))
    few = task._read(variables, seen, count=6)
    prefix = jnp.arange(16) < 6
    masked = task._read(variables, seen, count=16, prefix=prefix)
    whole = task._read(variables, seen, count=16)
    return few, masked, whole

  few, masked, whole = run(variables)
  np.testing.assert_allclose(few.logits, masked.logits, atol=1e-5)
  np.testing.assert_array_equal(masked.tokens, few.tokens)
  assert float(jnp.abs(few.logits - whole.logits).max()) > 1e-4


def counted(task, keys, step=0):
  """The tokens of a step, by its key, without a model."""

  def at(count, prefix=None, before=0):
    number = count if prefix is None else prefix.sum()
    return jnp.stack([jnp.float32(number), jnp.float32(before), 0.0])

  run = lambda key, step: task._count(at, key, step)
  return np.asarray(jax.jit(jax.vmap(run, (0, None)))(keys, jnp.int32(step)))


def test_numbers_of_tokens_are_drawn_as_published(tower):
  keys = jax.random.split(jax.random.key(0), 2000)
  flex = task_of(tower, 'token_flex', weights=(0.5, 0.3, 0.2)).bind(INFO)
  drawn = counted(flex, keys)[:, 0]
  share = [np.mean(drawn == n) for n in (16, 9, 4)]
  np.testing.assert_allclose(share, (0.5, 0.3, 0.2), atol=0.04)
  prefix = counted(task_of(tower, 'mqt').bind(INFO), keys)[:, 0]
  assert set(prefix) == {2, 4, 6, 8, 10, 12, 14, 16}
  assert set(counted(task_of(tower).bind(INFO), keys[:3])[:, 0]) == {7}


def test_the_curriculum_switches_at_its_steps(tower):
  task = task_of(tower, 'neighbours').bind(INFO)
  key = jax.random.key(0)[None]
  for step in range(8):
    stride, layer = CURRICULUM.at(step)
    tokens, before, _ = counted(task, key, step)[0]
    assert (16 // stride, layer) == (tokens, before), step
    assert CURRICULUM.strides[int(stage(CURRICULUM, step))] == stride
  assert [CURRICULUM.at(step)[0] for step in (2, 3, 4, 5)] == [8, 2, 2, 1]


def test_neighbours_are_joined_before_a_layer(tower):
  task = task_of(tower, 'neighbours').bind(INFO)
  variables = {'params': started(task)}

  @jax.jit
  def run(variables):
    seen, _ = task._see(variables, step_batch(0), jax.random.key(0))
    early = task._read(variables, seen, count=4)
    late = task._read(variables, seen, count=4, before=1)
    return early, late, task._read(variables, seen, count=16)

  early, late, whole = run(variables)
  assert (np.asarray(early.tokens) == 4).all()
  assert (np.asarray(whole.tokens) == 16).all()
  for a, b in ((early, late), (late, whole)):
    assert float(jnp.abs(a.logits - b.logits).max()) > 1e-5


def test_a_trained_reader_goes_with_its_tower(tower, tmp_path):
  task = task_of(tower, 'token_packer').bind(INFO)
  variables = {'params': started(task)}
  model = task.export(variables)
  export.export(model.module, model.variables, tmp_path / 'm', name='tiny')
  again = load(tmp_path / 'm')
  assert again.module.config == task.model and again.spec.family == 'reader'
  images = jnp.asarray(step_batch(0)['image'] / 127.5 - 1, jnp.float32)
  run = jax.jit(lambda v: model.module.apply(v, images).logits)
  np.testing.assert_array_equal(run(again.variables), run(model.variables))


def test_the_config_runs(tower, tmp_path):
  """`tokpress train configs/compress_scenes.py --dry-run`, but for the data."""
  config = config_lib.load(ROOT / 'configs' / 'compress_scenes.py')
  size = config.task.model.tower
  module = size.build()
  images = jnp.zeros((1, size.image_size, size.image_size, 3))
  export.export(
    module, jax.jit(module.init)(jax.random.key(0), images), tmp_path / 't'
  )
  info = dataclasses.replace(INFO, image_size=32, channels=3, num_classes=8)
  shape = (config.train.batch_size, 32, 32, 3)
  batch = {
    'image': np.zeros(shape, np.uint8),
    'label': np.zeros(shape[0], np.int32),
  }
  stream = types.SimpleNamespace(
    info=info, batches=lambda step=0: iter([batch])
  )
  data = types.SimpleNamespace(Stream=lambda *args, **options: stream)
  task = dataclasses.replace(config.task, tower=str(tmp_path / 't'))
  config = dataclasses.replace(config, task=task)
  sizes = dry_run(config, devices=jax.devices()[:1], data=data)
  assert 'reader: peak' in sizes
  # Adam's two moments and the gradient's owner: no tower.
  assert sizes['optimizer'] < sizes['params']


@pytest.mark.parametrize(
  'options, message',
  [
    ({'counts': (9,)}, r"'pool' cannot make \[9\] tokens of a grid of 4 x 4"),
    ({'counting': 'prefix'}, "'prefix' is of 'mqt', not of 'pool'"),
    ({'counting': 'curriculum'}, "is of 'neighbours', not of 'pool'"),
    ({'counting': 'drawn', 'weights': (1.0,)}, 'weights=.*one for each'),
    (
      {'method': 'neighbours', 'curriculum': Curriculum()},
      r'stages \[\(8, 2\), \(2, 2\), \(2, 16\)\] do not fit 16 tokens',
    ),
  ],
)
def test_what_cannot_be_trained_is_refused(tower, options, message):
  with pytest.raises(UserError, match=message):
    task_of(tower, **options).bind(INFO)


def test_a_tower_is_needed(tmp_path):
  with pytest.raises(UserError, match=r'--task\.tower runs/x'):
    task_of('').bind(INFO)
  with pytest.raises(UserError, match=r'no ViT yet.*--task\.tower'):
    task_of(str(tmp_path / 'no')).bind(INFO)
  with pytest.raises(UserError, match='most first'):
    CompressorConfig(counts=(4, 16))
  with pytest.raises(UserError, match='made for one number'):
    CompressorConfig(method='quecc', counts=(16, 4))
  with pytest.raises(UserError, match="Did you mean 'pool'"):
    CompressorConfig(method='pol')
