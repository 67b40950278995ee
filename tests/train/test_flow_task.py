"""The training of a flow tokenizer on tiny images, by hand."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import config as config_lib
from tokpress_jax import released
from tokpress_jax.data import DatasetInfo
from tokpress_jax.errors import UserError
from tokpress_jax.io import export
from tokpress_jax.quantize import FSQConfig, GaussianConfig
from tokpress_jax.tokenizers import (
  AutoencoderKLConfig,
  FlexTokConfig,
  OneDConfig,
  TowerConfig,
)
from tokpress_jax.train import tree
from tokpress_jax.train.tasks import FlowTokenizerTask

ROOT = pathlib.Path(__file__).resolve().parents[2]
B, SIZE = 6, 8
INFO = DatasetInfo(
  name='tiny',
  split='train',
  num_records=B,
  image_size=SIZE,
  channels=3,
  num_classes=0,
)
TOWER = TowerConfig(width=8, depth=1, heads=2)
MODEL = FlexTokConfig(
  image_size=SIZE,
  patch=4,
  tokens=4,
  encoder=TOWER,
  decoder=TOWER,
  quantizer=FSQConfig(levels=(4, 3), form='lucidrains'),
  vae=None,
  steps=2,
  guidance=1.0,
)
VAE = AutoencoderKLConfig(
  image_size=SIZE,
  patch=2,
  width=4,
  multipliers=(1, 1),
  blocks=1,
  groups=2,
  quantizer=GaussianConfig(dim=2),
  scaling=0.5,
)
RNG = np.random.default_rng(0)
BATCH = {
  'image': RNG.integers(0, 256, size=(B, SIZE, SIZE, 3), dtype=np.uint8),
  'valid': np.array([True] * 4 + [False] * 2),
}
JUNK = BATCH | {
  'image': np.where(
    BATCH['valid'][:, None, None, None], BATCH['image'], 255 - BATCH['image']
  )
}
STEP = jnp.int32(0)


@functools.cache
def variables():
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(
    FlowTokenizerTask(model=MODEL).init, jax.random.key(0)
  )
  return jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )


def loss(task, batch=BATCH, seed=3):
  (program,) = task.programs()
  run = jax.jit(lambda v, b, k: program.loss(v, b, k, STEP))
  return run(variables(), batch, jax.random.key(seed))


def test_the_loss_is_of_valid_images_and_its_draws():
  task = FlowTokenizerTask(model=MODEL)
  value, found, _ = loss(task)
  np.testing.assert_allclose(loss(task, JUNK)[0], value, rtol=1e-5)
  np.testing.assert_allclose(found['velocity'], value, rtol=1e-6)
  assert abs(loss(task, seed=4)[0] - value) > 1e-3
  # Without tokens for anyone nothing of the encoder counts.
  (program,) = FlowTokenizerTask(model=MODEL, drop=1.0).programs()
  grads = jax.jit(
    jax.grad(
      lambda v: program.loss(v, BATCH, jax.random.key(3), STEP)[0],
    )
  )(variables())
  named = tree.named(grads['params'])
  moved = {k for k, g in named.items() if np.any(g)}
  assert not {k for k in moved if k.startswith('encoder/')}
  assert 'decoder/null/table' in moved
  assert 'decoder/from_code/kernel' not in moved


def test_evaluation_measures_the_velocity_and_every_budget():
  task = FlowTokenizerTask(model=MODEL)
  found = jax.jit(lambda b: task.evaluate(variables(), b, None))(BATCH)
  again = jax.jit(lambda b: task.evaluate(variables(), b, None))(JUNK)
  assert {'psnr_1', 'psnr_4', 'velocity', 'velocity_without'} <= found.keys()
  for name, (total, weight) in found.items():
    assert weight == 4
    np.testing.assert_allclose(total, again[name][0], rtol=1e-5)
  assert found['velocity'][0] != found['velocity_without'][0]


def test_an_autoencoder_is_loaded_and_frozen(tmp_path):
  vae = tiny_models.loaded(VAE, 'tokenizer', jnp.zeros((1, SIZE, SIZE, 3)))
  export.export(vae.module, vae.variables, tmp_path, licence='CC0-1.0')
  model = dataclasses.replace(MODEL, vae=VAE)
  task = FlowTokenizerTask(model=model, vae=str(tmp_path)).bind(INFO)
  start = task.start()['params']['vae']
  jax.tree.map(np.testing.assert_array_equal, start, vae.variables['params'])
  names = tree.named(jax.eval_shape(task.init, jax.random.key(0))['params'])
  groups = {n: tree.first_match(task.groups, n) for n in names}
  assert {n for n, g in groups.items() if g == 'frozen'} == {
    n for n in names if n.startswith('vae/')
  }
  other = dataclasses.replace(VAE, scaling=0.75)
  wrong = dataclasses.replace(task, model=dataclasses.replace(model, vae=other))
  with pytest.raises(UserError, match=r'scaling=0\.75'):
    wrong.start()


def test_models_that_do_not_flow_are_refused():
  one = OneDConfig(
    image_size=SIZE, patch=4, width=8, heads=2, encoder_depth=1, decoder_depth=1
  )
  with pytest.raises(UserError, match='whose decoder is no flow'):
    FlowTokenizerTask(model=one).bind(INFO)
  with pytest.raises(UserError, match='set both, or neither'):
    FlowTokenizerTask(model=MODEL, vae='x').bind(INFO)


def test_the_imagenet_config_is_the_published_d18_d18():
  path = ROOT / 'configs' / 'flextok_d18_d18_imagenet256.py'
  task = config_lib.load(path).task
  shapes = jax.eval_shape(task.init, jax.random.key(0))
  row = released.RELEASED['flextok-d18-d18-in1k']
  assert sum(x.size for x in jax.tree.leaves(shapes)) == row.parameters
  assert task.model == row.make_config()
