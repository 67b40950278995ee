"""configs/var_d16_imagenet256.py against what the official code does."""

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import config as config_lib
from tokpress_jax import released
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import optim, sharding, tree
from tokpress_jax.train.config import MeshConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIG = config_lib.load(ROOT / 'configs' / 'var_d16_imagenet256.py')


def parameters():
  model = CONFIG.task.model
  init = model.build().init
  variables = jax.eval_shape(init, jax.random.key(0), *model.example_inputs())
  return tree.named(variables['params'])


def test_the_model_is_var_d16():
  count = sum(math.prod(x.shape) for x in parameters().values())
  assert count == 310_283_520 and CONFIG.task.model.num_tokens == 680


def test_model_and_tokenizer_are_spread_over_devices():
  """The rules for stacks of layers must leave the convolutions alone."""
  model = CONFIG.task.model
  tokenizer = released.RELEASED[CONFIG.task.tokenizer].make_config()
  assert model.fit_to(tokenizer) == dataclasses.replace(
    model, scales=tuple(tokenizer.scales)
  )
  abstract = lambda config, *inputs: jax.eval_shape(
    lambda: config.build().init(jax.random.key(0), *inputs)
  )
  variables = dict(abstract(model, *model.example_inputs()))
  variables['frozen'] = abstract(tokenizer, jnp.zeros((1, 256, 256, 3)))
  config = MeshConfig(data=2, fsdp=2, model=2)
  mesh = mesh_lib.make_mesh(config)
  rules = CONFIG.task.sharding_rules
  placed = sharding.shard(variables, mesh, config, rules=rules)
  spec = lambda name: tuple(tree.named(placed)[name].spec)
  stack = 'params/stack/layers'
  assert spec(f'{stack}/attn/qkv/kernel') == (None, 'fsdp', 'model')
  assert spec(f'{stack}/mlp/fc2/kernel') == (None, 'model', 'fsdp')
  bytes_of = lambda part: sharding.bytes_per_device(
    variables[part], placed[part]
  )
  # 310M and 109M numbers of 4 bytes, cut in four or in two.
  assert bytes_of('params') < 1240e6 / 2.9 and bytes_of('frozen') < 436e6 / 1.9


def test_what_is_decayed():
  """All matrices and the classes' table; no bias, position or scale."""
  names = parameters()
  rules = [(CONFIG.optim.decay_mask, True)]
  optim.check(CONFIG.optim, names, {'main'})
  kept = {n for n in names if not tree.first_match(rules, n, False)}
  assert kept == {
    'start/table',
    'positions/table',
    'levels/table',
    'stack/layers/attn/q_bias',
    'stack/layers/attn/v_bias',
    'stack/layers/attn/log_scale',
    *(n for n in names if n.endswith('/bias')),
  }


def test_epochs_and_rates():
  train = CONFIG.train
  epoch = math.ceil(1_281_167 / train.batch_size)
  assert (train.steps, CONFIG.optim.warmup_steps) == (200 * epoch, 4 * epoch)
  assert train.ema_decay is None and CONFIG.task.smoothing == 0
  rate = optim.make_schedule(CONFIG.optim, train.steps)
  peak = 1e-4 * train.batch_size / 256
  found = [float(rate(i)) for i in (0, 4 * epoch, train.steps - 1)]
  np.testing.assert_allclose(found, [0.005 * peak, peak, 0.1 * peak], rtol=1e-5)
