"""A compressor behind the frozen ViT of drawings, trained to count shapes.

tokpress train configs/compress_scenes.py --workdir runs/compress_scenes
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.models import CompressorConfig, ReaderConfig
from tokpress_jax.pruners.compressors import Curriculum
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import CompressorTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  return dataclasses.replace(
    base,
    name='compress_scenes',
    task=CompressorTask(
      model=ReaderConfig(
        tower=base.task.model,
        layer=2,
        compressor=CompressorConfig(method='pool', counts=(64, 16, 4, 1)),
        width=64,
        depth=2,
        heads=4,
        classes=8,
      ),
      tower='runs/vit_scenes',
      counting='nested',
      curriculum=Curriculum(
        strides=(8, 2, 2, 1), layers=(0, 0, 1, 0), until=(200, 400, 600)
      ),
    ),
    train=TrainConfig(
      steps=800,
      batch_size=64,
      ema_decay=0.99,
      log_every=100,
      checkpoint_every=400,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=50, b2=0.99, weight_decay=0.05
    ),
  )
