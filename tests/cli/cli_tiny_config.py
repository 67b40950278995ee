"""The config file of the tests of the command line."""

from cli_tiny import TinyTask

from tokpress_jax.config import Config
from tokpress_jax.train.config import TrainConfig


def get_config():
  return Config(
    name='tiny',
    task=TinyTask(),
    train=TrainConfig(steps=3, batch_size=16, log_every=1),
  )
