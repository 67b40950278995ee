"""A row of 16 adaptive tokens (127 bits) per handwritten digit.

  tokpress train configs/one_d_digits.py --workdir runs/one_d

Every prefix of the row decodes. Hardware: 2 CPU cores, about 2 minutes. PSNR on
the test scans: 13.8 dB with 1 token, 18.9 with 4, 23.1 with all 16.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import FSQConfig
from tokpress_jax.tokenizers import OneDConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config() -> Config:
  return Config(
    name='one_d_digits',
    task=TokenizerTask(
      model=OneDConfig(
        image_size=8,
        channels=1,
        patch=4,
        tokens=16,
        width=64,
        heads=4,
        encoder_depth=2,
        decoder_depth=2,
        activation='relu',
        quantizer=FSQConfig(levels=(8, 6, 5)),
      ),
      loss='decibel',
      loss_weight=0.05,
      lengths='powers',
      full=0.25,
    ),
    data=DataConfig(name='digits'),
    train=TrainConfig(
      steps=800,
      batch_size=128,
      ema_decay=0.995,
      log_every=50,
      eval_every=400,
      checkpoint_every=400,
    ),
    optim=OptimConfig(
      learning_rate=4e-3,
      warmup_steps=50,
      final_scale=0.02,
      b2=0.99,
    ),
  )
