"""The recipes of the adaptive systems at their published sizes.

Nothing is allocated: a step of the trainer is traced with shapes.
"""

import dataclasses
import functools
import pathlib
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import config as config_lib
from tokpress_jax import released, types
from tokpress_jax.data import DatasetInfo
from tokpress_jax.generators import flexar_keys
from tokpress_jax.losses import lpips
from tokpress_jax.train import job as job_lib
from tokpress_jax.train import optim, step, tree
from tokpress_jax.train.tasks import GeneratorTask, generate

ROOT = pathlib.Path(__file__).resolve().parents[2]
KARL, ALIT = 'karl_small', 'alit_small'
ELASTIC, FLEXAR = 'elastictok_fsq', 'flexar_1b_c2i'
FLEXTOK = 'flextok_d18_d18'  # `test_flow_task` has its size.
IMAGENET = DatasetInfo(
  name='imagenet2012',
  split='train',
  num_records=1_281_167,
  image_size=256,
  channels=3,
  num_classes=1000,
)


@functools.cache
def config(name):
  return config_lib.load(ROOT / 'configs' / f'{name}_imagenet256.py')


@functools.cache
def loaded(name):
  """A released tokenizer of shapes."""
  model = released.RELEASED[name].make_config()
  module = model.build()
  images = jnp.zeros((1, 256, 256, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  spec = types.Spec(name=name, family='tokenizer', config=model)
  return types.Loaded(module, shapes, spec)


@functools.cache
def prepared(name):
  """The trainer's job, and its state with what the task would load."""
  c = config(name)
  stream = lambda *_, **__: python_types.SimpleNamespace(info=IMAGENET)
  data = python_types.SimpleNamespace(Stream=stream)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(generate, '_load_tokenizer', loaded)
    patch.setattr(type(c.task), 'constants', lambda _: {})
    job = job_lib.prepare(c, data=data)
  frozen = {}
  if isinstance(c.task, GeneratorTask):
    frozen = {'frozen': loaded(c.task.tokenizer).variables}
  elif getattr(c.task, 'perceptual_weight', 0):
    frozen = {'frozen': {'perceptual': lpips.expected()}}
  state = job.abstract
  variables = {**state.variables, **frozen}
  return job, dataclasses.replace(state, variables=variables)


def batch_of(count):
  shape = lambda *s, dtype: jax.ShapeDtypeStruct((count, *s), dtype)
  return {
    'image': shape(256, 256, 3, dtype=jnp.uint8),
    'label': shape(dtype=jnp.int32),
    'valid': shape(dtype=bool),
  }


@pytest.mark.parametrize('name', [FLEXTOK, KARL, ALIT, ELASTIC, FLEXAR])
def test_a_step_and_the_evaluation_trace_at_full_size(name):
  job, state = prepared(name)
  batch = batch_of(config(name).train.batch_size)
  (program,) = job.programs
  after, found = jax.eval_shape(
    step.make_step(job, program, 0), state, batch, jnp.int32(0)
  )
  shapes = lambda x: jax.tree.map(lambda a: (a.shape, a.dtype), x)
  assert shapes(after) == shapes(state)
  assert {x.shape for x in found.values()} == {()}
  assert {'loss', 'grad_norm'} <= found.keys()
  measured = jax.eval_shape(
    lambda v, b: job.task.evaluate(v, b, jax.random.key(0)),
    state.variables,
    batch,
  )
  assert measured
  if name == ALIT:
    for n in range(32, 257, 32):
      assert {f'cross_entropy_{n}', f'code_{n}', f'masked_{n}'} <= found.keys()
      assert {f'psnr_{n}', f'accuracy_{n}'} <= measured.keys()


@pytest.mark.parametrize('name', [KARL, ALIT, ELASTIC])
def test_tokenizers_are_the_released_ones(name):
  row = released.RELEASED[name.replace('_', '-')]
  job, state = prepared(name)
  assert job.task.model == row.make_config()
  names = tree.named(state.variables['params'])
  assert sum(x.size for x in names.values()) == row.parameters
  still = {n for n in names if n not in job.members['tokenizer']}
  vqgan = ('painter/codebook', 'painter/decoder/', 'image_tokens/vqgan/')
  expected = {n for n in names if n.startswith(vqgan)}
  assert still == expected and bool(still) == (name != ELASTIC)


def test_the_generator_is_the_released_one():
  job, state = prepared(FLEXAR)
  ours = flexar_keys.sized('1b', 'class')
  trained = {'remat': True, 'class_dropout': 0.1}
  assert job.task.model == dataclasses.replace(ours, **trained)
  sizes = [x.size for x in jax.tree.leaves(state.variables['params'])]
  assert sum(sizes) == 1_079_176_320


def test_alits_rates_and_what_is_decayed():
  """As in the authors' script; only what has one axis is spared."""
  c = config(ALIT)
  epoch = 1_281_167 // 256
  assert (c.train.steps, c.train.batch_size) == (200 * epoch, 256)
  assert (c.optim.clip_norm, c.optim.weight_decay) == (3.0, 0.05)
  assert c.task.weights == (2.5, 2.0, 1.5, 1.25)
  rate = optim.make_schedule(c.optim, c.train.steps)
  at = (0, 10 * epoch, 20 * epoch, 110 * epoch, 200 * epoch)
  want = [0, 0.75e-4, 1.5e-4, 0.75e-4, 0]
  np.testing.assert_allclose([float(rate(i)) for i in at], want, atol=1e-9)
  job, state = prepared(ALIT)
  names = tree.named(state.variables['params'])
  rules = [(c.optim.decay_mask, True)]
  for n in job.members['tokenizer']:
    # Layers are stacked along one more axis.
    axes = names[n].ndim - ('/layers/' in n)
    assert tree.first_match(rules, n, False) == (axes > 1), n


def test_elastictoks_rates_and_losses():
  c = config(ELASTIC)
  rate = optim.make_schedule(c.optim, c.train.steps)
  at = (0, 1000, 2000, 1_999_999)
  want = [0, 0.5e-4, 1e-4, 1e-4]
  np.testing.assert_allclose([float(rate(i)) for i in at], want, atol=1e-9)
  assert (c.task.loss, c.task.perceptual_weight) == ('l2', 0.1)
  assert c.task.model.boundaries[0] == 256 and c.task.full == 0
