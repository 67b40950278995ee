"""MVAR-d16 on ImageNet at 256 pixels: VAR's parameters, no cache, in passes.

  tokpress data prepare imagenet2012
  tokpress train configs/mvar_d16_imagenet256.py --workdir runs/mvar_d16
    --train.init-from var-d16

The recipe of Zhang et al., "MVAR", arXiv 2505.12742, and its official code: of
ten steps eight train scales 1 to 8 together, one the map of 13 x 13 and one the
map of 16 x 16, whose tokens see 7 x 7 neighbours; no attention matrix is larger
than 256 x 256. The command goes on from VAR's released weights (80 epochs);
without --train.init-from and with --train.steps 858000 it starts afresh (300
epochs). Hardware: the authors train on 8 RTX 4090. Expected, from their README:
FID 3.37 of 50,000 samples after fine-tuning (guidance 2.0, top-k 1200, top-p
0.99), 3.01 from scratch (guidance 2.7). We have not run it.

A token cache works as in configs/var_d16_imagenet256.py. What differs from the
official training is said there too; and it cuts out the centre and mirrors.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators.scale_wise_keys import mvar_config
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask

BATCH = 448
EPOCH = -(-1_281_167 // BATCH)  # steps


def get_config() -> Config:
  return Config(
    name='mvar_d16_imagenet256',
    task=GeneratorTask(
      tokenizer='var-vqvae', model=mvar_config(16), turns=(8, 1, 1)
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      flip=True,
    ),
    train=TrainConfig(
      steps=80 * EPOCH,
      batch_size=BATCH,
      precision='bfloat16',
      log_every=50,
      eval_every=10 * EPOCH,
      checkpoint_every=EPOCH,
    ),
    optim=OptimConfig(
      learning_rate=1e-4 * BATCH / 256,
      schedule='warmup-hold-linear',
      warmup_steps=80 * EPOCH // 50,
      warmup_scale=0.005,
      hold=0.05,
      final_scale=0.01,
      b1=0.9,
      b2=0.95,
      weight_decay=0.05,
      decay_mask=r'kernel$|class_embed',
      clip_norm=2.0,
    ),
  )
