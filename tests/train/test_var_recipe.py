"""configs/var_d16_imagenet256.py against what the official code does."""

import math
import pathlib

import jax
import numpy as np

from tokpress_jax import config as config_lib
from tokpress_jax.train import optim, tree

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
