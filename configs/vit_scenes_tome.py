"""ToMe inside `configs/vit_scenes.py`, fine-tuned: half of the FLOPs."""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.pruners import PlanConfig
from tokpress_jax.train.config import TrainConfig


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  plan = PlanConfig(method='tome', flops=0.5)
  model = dataclasses.replace(base.task.model, plan=plan)
  return dataclasses.replace(
    base,
    name='vit_scenes_tome',
    task=dataclasses.replace(base.task, model=model),
    train=TrainConfig(
      steps=200,
      batch_size=64,
      ema_decay=0.98,
      init_from='runs/vit_scenes',
      log_every=50,
      checkpoint_every=200,
    ),
    optim=dataclasses.replace(base.optim, learning_rate=5e-4, warmup_steps=20),
  )
