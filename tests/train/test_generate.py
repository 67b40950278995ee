"""The generator's task: what it reports, and codes that come with a batch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax.data import DatasetInfo
from tokpress_jax.generators import RARConfig
from tokpress_jax.io import export
from tokpress_jax.train.tasks import GeneratorTask

B = 6
RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.integers(0, 256, size=(B, 8, 8, 1), dtype=np.uint8),
  'label': np.array([0, 1, 2, 0, 1, 2], np.int32),
  'valid': np.array([True] * 4 + [False] * 2),
}
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=8,
  channels=1,
  num_classes=3,
)


@pytest.fixture(scope='module')
def bound(tmp_path_factory):
  """The task with its variables, and both its functions compiled."""
  generator = tiny_models.scale_wise()
  path = tmp_path_factory.mktemp('tokenizer') / 'model'
  tokenizer = generator.tokenizer
  export.export(tokenizer.module, tokenizer.variables, path)
  model = dataclasses.replace(generator.module.config, class_dropout=0.0)
  task = GeneratorTask(model=model, tokenizer=str(path), smoothing=0.1)
  task = task.bind(INFO)
  variables = {**generator.variables, 'frozen': task.constants()}
  (program,) = task.programs()
  key, step = jax.random.key(0), jnp.int32(0)
  loss = jax.jit(lambda v, b: program.loss(v, b, key, step))
  evaluate = jax.jit(lambda v, b: task.evaluate(v, b, key))
  return task, variables, loss, evaluate


def test_loss_and_accuracy_of_every_block(bound):
  task, variables, loss, evaluate = bound
  codes, inputs, labels, _ = jax.jit(task._targets)(
    variables, BATCH, jax.random.key(0), jnp.int32(0)
  )
  own = {'params': variables['params']}
  logits = jax.jit(task.model.build().apply)(own, inputs, labels)
  logits, codes = np.float64(logits)[:4], np.asarray(codes)[:4]
  nats = np.log(np.exp(logits).sum(-1))
  nats -= np.take_along_axis(logits, codes[..., None], -1)[..., 0]
  right = logits.argmax(-1) == codes
  found = evaluate(variables, BATCH)
  assert set(found) == {
    f'{name}{end}' for name in ('loss', 'accuracy') for end in ('', '_1', '_5')
  }
  for end, block in {'': slice(5), '_1': slice(1), '_5': slice(1, 5)}.items():
    weight = 4 * len(range(5)[block])
    want = nats[:, block].sum(), weight
    np.testing.assert_allclose(found[f'loss{end}'], want, rtol=1e-5)
    want = right[:, block].sum(), weight
    np.testing.assert_allclose(found[f'accuracy{end}'], want, rtol=1e-5)
  _, metrics, _ = loss(variables, BATCH)
  want = {
    'accuracy': right.mean(),
    'loss_last': nats[:, 1:].mean(),  # without the smoothing of the loss
    'accuracy_last': right[:, 1:].mean(),
  }
  assert set(metrics) == set(want)
  for name, value in want.items():
    np.testing.assert_allclose(metrics[name], value, rtol=1e-5)


def test_codes_of_the_batch_take_the_place_of_images(bound):
  task, variables, loss, evaluate = bound
  encode = jax.jit(lambda x: task.loaded.encode(x).codes)
  codes = encode(BATCH['image'] / 127.5 - 1)
  batch = {k: v for k, v in BATCH.items() if k != 'image'} | {'codes': codes}
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(loss(variables, batch), loss(variables, BATCH))
  same(evaluate(variables, batch), evaluate(variables, BATCH))
  other = batch | {'codes': (codes + 1) % 16}
  assert loss(variables, other)[0] != loss(variables, batch)[0]


def test_orders_follow_the_step_and_are_raster_where_a_model_is_judged(
  tmp_path,
):
  tokenizer = tiny_models.one_d()
  export.export(tokenizer.module, tokenizer.variables, tmp_path / 'model')
  model = RARConfig(
    class_dropout=0.0, width=16, depth=1, heads=2, anneal=(10, 20)
  )
  task = GeneratorTask(model=model, tokenizer=str(tmp_path / 'model'))
  task = task.bind(INFO)
  assert task.model.tokens == 3 and task.model.codebook_size == 16
  draw = lambda x: jnp.asarray(RNG.normal(size=x.shape) * 0.5, jnp.float32)
  own = jax.tree.map(draw, jax.eval_shape(task.init, jax.random.key(0)))
  variables = {**own, 'frozen': task.constants()}
  codes = RNG.integers(16, size=(B, 3, 1))
  batch = {'codes': codes, 'label': BATCH['label']}
  (program,) = task.programs()
  loss = jax.jit(program.loss)
  at = lambda step: float(
    loss(variables, batch, jax.random.key(0), jnp.int32(step))[0]
  )
  judged = jax.jit(task.evaluate)(variables, batch, jax.random.key(0))['loss']
  np.testing.assert_allclose(at(20), judged[0] / judged[1], rtol=1e-5)
  np.testing.assert_allclose(at(0), at(10), rtol=1e-6)
  assert abs(at(0) - at(20)) > 1e-3
