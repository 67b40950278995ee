"""A row of 32 adaptive tokens (444 bits) per crop of a photograph.

  tokpress train configs/one_d_photos.py --workdir runs/one_d_photos

Every prefix of the row decodes. `--task.lengths none` trains the same without
nested dropout, as TiTok. Hardware: 2 CPU cores.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import FSQConfig
from tokpress_jax.tokenizers import OneDConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config() -> Config:
  return Config(
    name='one_d_photos',
    task=TokenizerTask(
      model=OneDConfig(
        image_size=64,
        channels=3,
        patch=8,
        tokens=32,
        width=128,
        heads=4,
        encoder_depth=3,
        decoder_depth=3,
        activation='relu',
        quantizer=FSQConfig(levels=(8, 8, 8, 6, 5)),
      ),
      loss='decibel',
      loss_weight=0.05,
      lengths='uniform',
      full=0.25,
    ),
    data=DataConfig(name='photos', flip=True),
    train=TrainConfig(
      steps=1000,
      batch_size=32,
      ema_decay=0.99,
      log_every=50,
      eval_every=250,
      checkpoint_every=250,
    ),
    optim=OptimConfig(
      learning_rate=2e-3,
      warmup_steps=100,
      final_scale=0.02,
      b2=0.99,
    ),
  )
