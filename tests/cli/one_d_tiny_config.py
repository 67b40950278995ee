"""A tokenizer of a few hundred parameters on the digits."""

import tiny_models

from tokpress_jax.config import Config
from tokpress_jax.train.config import TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config():
  return Config(
    name='tiny digits',
    task=TokenizerTask(model=tiny_models.ONE_D),
    train=TrainConfig(steps=2, batch_size=32, ema_decay=0.5, log_every=1),
  )
