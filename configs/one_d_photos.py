"""A row of 16 adaptive tokens (223 bits) per crop of a photograph.

  tokpress train configs/one_d_photos.py --workdir runs/one_d_photos

Every prefix of the row decodes. Hardware: 2 CPU cores, 12 minutes beside other
work. PSNR of held-out crops with 1, 2, 4, 8 and all tokens: 16.5, 17.0, 17.3,
18.2, 18.4 dB. The same without nested dropout (`--task.lengths none`), as
TiTok, and cut off: 11.2, 11.7, 13.4, 17.3, 18.9. Crops that take as many tokens
as they need for 17.7 dB (18.2) take 7.4 (8.9), where the same number for all
would have to be 16; the prefix is the shortest possible of 99.4% (99.1%)
(`tokpress report`).
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
        image_size=32,
        channels=3,
        patch=8,
        tokens=16,
        width=96,
        heads=4,
        encoder_depth=2,
        decoder_depth=2,
        activation='relu',
        quantizer=FSQConfig(levels=(8, 8, 8, 6, 5)),
      ),
      loss='decibel',
      loss_weight=0.05,
      lengths='uniform',
      full=0.25,
    ),
    data=DataConfig(name='photos', image_size=32, flip=True),
    train=TrainConfig(
      steps=1500,
      batch_size=64,
      ema_decay=0.99,
      log_every=50,
      eval_every=500,
      checkpoint_every=500,
    ),
    optim=OptimConfig(
      learning_rate=4e-3,
      warmup_steps=100,
      final_scale=0.02,
      b2=0.99,
    ),
  )
