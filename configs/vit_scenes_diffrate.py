"""DiffRate: how many tokens each layer of `configs/vit_scenes.py` keeps."""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import DiffRateTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  return dataclasses.replace(
    base,
    name='vit_scenes_diffrate',
    task=DiffRateTask(
      classifier='runs/vit_scenes',
      flops=0.5,
    ),
    train=TrainConfig(
      steps=200,
      batch_size=64,
      log_every=25,
      checkpoint_every=200,
    ),
    optim=OptimConfig(learning_rate=0.1, final_scale=0.1),
  )
