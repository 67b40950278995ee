"""configs/rar_b_imagenet256.py against what the official code does."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import config as config_lib
from tokpress_jax import released
from tokpress_jax.generators import rar_keys
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import optim, sharding, tree
from tokpress_jax.train.config import MeshConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = config_lib.load(ROOT / 'configs' / 'rar_b_imagenet256.py')


def parameters():
  return tree.named(rar_keys.expected(CONFIG.task.model)['params'])


def test_the_model_is_the_released_rar_b():
  row = released.RELEASED['rar-b']
  tokenizer = released.RELEASED[CONFIG.task.tokenizer].make_config()
  ours = CONFIG.task.model.fit_to(tokenizer)
  trained = {'remat': True, 'anneal': (125_000, 187_500)}
  assert ours == dataclasses.replace(row.make_config(), **trained)
  count = sum(math.prod(x.shape) for x in parameters().values())
  assert count == row.parameters == 259_275_520


def test_what_is_decayed():
  """Matrices but for the last modulation's, and the start; no other table."""
  names = parameters()
  rules = [(CONFIG.optim.decay_mask, True)]
  optim.check(CONFIG.optim, names, {'main'})
  decayed = {n for n in names if tree.first_match(rules, n, False)}
  layer = 'stack/layers'
  matrices = ('attn/qkv', 'attn/proj', 'mlp/fc1', 'mlp/fc2', 'ada')
  assert decayed == {
    'start/table',
    'head/logits/kernel',
    *(f'{layer}/{name}/kernel' for name in matrices),
  }


def test_steps_rates_and_orders():
  steps = CONFIG.train.steps
  assert (steps, CONFIG.train.batch_size) == (250_000, 2048)
  assert CONFIG.train.ema_decay is None
  rate = optim.make_schedule(CONFIG.optim, steps)
  found = [float(rate(i)) for i in (62_500, (62_500 + steps) // 2, steps)]
  np.testing.assert_allclose(found, [4e-4, 2.05e-4, 1e-5], rtol=1e-3)
  share = CONFIG.task.model.random_share
  found = [float(share(i)) for i in (0, 125_000, 156_250, 187_500, steps)]
  assert found == [1, 1, 0.5, 0, 0]


def test_model_is_spread_over_devices():
  variables = rar_keys.expected(CONFIG.task.model)
  config = MeshConfig(data=2, fsdp=2, model=2)
  mesh = mesh_lib.make_mesh(config)
  rules = CONFIG.task.sharding_rules
  placed = sharding.shard(variables, mesh, config, rules=rules)
  spec = lambda name: tuple(tree.named(placed)[f'params/{name}'].spec)
  assert spec('stack/layers/attn/qkv/kernel') == (None, 'fsdp', 'model')
  assert spec('stack/layers/ada/kernel') == (None, 'fsdp', 'model')
  assert spec('stack/layers/mlp/fc2/kernel') == (None, 'model', 'fsdp')
  size = sharding.bytes_per_device(variables, placed)
  assert size < 4 * 259_275_520 / 3.5
  assert jax.tree.leaves(variables)[0].dtype == jnp.float32
