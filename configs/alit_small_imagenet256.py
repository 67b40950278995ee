"""ALIT-small's first stage: 32 to 256 tokens in 8 rounds, 207M and 55M frozen.

  tokpress data prepare imagenet2012
  tokpress train configs/alit_small_imagenet256.py --workdir runs/alit_small

Published, in the authors' script: 8 GPUs with 32 images each, 200 epochs of
which 20 warm up, a rate of 1.5e-4 for 256 images, weight decay 0.05, gradients
clipped to a norm of 3, random crops of 0.8 to 1. That script names alit_base,
and ImageNet-100; ImageNet is the authors' other choice (for the hundred
classes, an epoch is 500 steps). Hardware: as published, or a TPU slice
(`--mesh.fsdp 8`); not measured. We have not run it, and know of no published
number for this stage alone. `eval/psnr_32` ... `eval/psnr_256` are of the
rounds.

The larger models, as `--task.model.FIELD`:

  |                              | small | base | semilarge |
  |------------------------------|-------|------|-----------|
  | encoder.width, decoder.width | 1024  | 768  | 1024      |
  | encoder.depth, decoder.depth | 8     | 12   | 16        |
  | encoder.heads, decoder.heads | 8     | 12   | 16        |

What differs from the official training: the VQGAN is `maskgit-vqgan` (the
authors take MAGE's weights of the same network); bfloat16 where it has float16;
a matrix starts with the deviation 1 / sqrt(inputs), where there it is 0.02;
crops are squares with 0.8 to 1 of the shorter side, where there they have 0.8
to 1 of the area and any shape. The second stage, with a discriminator for each
round, is not here.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.tokenizers import ALITConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import ALITTask

BATCH = 256
EPOCH = 1_281_167 // BATCH  # steps


def get_config() -> Config:
  return Config(
    name='alit_small_imagenet256',
    task=ALITTask(proxy='maskgit-vqgan', model=ALITConfig()),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      flip=True,
      random_crop=True,
      crop_min=0.8,
      crop_max=1.0,
    ),
    train=TrainConfig(
      steps=200 * EPOCH,
      batch_size=BATCH,
      precision='bfloat16',
      ema_decay=0.9999,
      log_every=100,
      eval_every=10 * EPOCH,
      checkpoint_every=EPOCH,
    ),
    optim=OptimConfig(
      learning_rate=1.5e-4 * BATCH / 256,
      warmup_steps=20 * EPOCH,
      warmup_scale=0.0,
      b1=0.9,
      b2=0.95,
      weight_decay=0.05,
      # All that has more than one axis: tables and the codebook too.
      decay_mask='(kernel|table|codebook)$',
      clip_norm=3.0,
    ),
  )
