"""KARL-small's first stage: up to 256 tokens, as many as an image needs.

  tokpress train configs/karl_small_imagenet256.py --workdir runs/karl_small

Published: ImageNet 256, 8 GPUs with 64 images each, 200 epochs, a base learning
rate of 1e-4 for 256 images, weight decay 0.05. The VQGAN is `maskgit-vqgan`
(the authors take MAGE's weights of the same network). This file has been
built, not run. The second stage, with a discriminator, is not here.

Hardware: as published, or a TPU slice (`--mesh.fsdp 8`); not measured.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.tokenizers import KARLConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import KARLTask


def get_config() -> Config:
  return Config(
    name='karl_small_imagenet256',
    task=KARLTask(proxy='maskgit-vqgan', model=KARLConfig()),
    data=DataConfig(
      name='imagenet2012', eval_split='validation', image_size=256, flip=True
    ),
    train=TrainConfig(
      steps=500_000,
      batch_size=512,
      precision='bfloat16',
      ema_decay=0.9999,
      log_every=100,
      eval_every=10_000,
      checkpoint_every=5_000,
    ),
    optim=OptimConfig(
      learning_rate=2e-4, warmup_steps=50_000, weight_decay=0.05, b2=0.95
    ),
  )
