"""TiTok's second stage at a small size: the decoder, on pixels.

  tokpress train configs/titok_photos_decoder.py --workdir runs/titok_decoder

From the last checkpoint of `configs/titok_photos_codes.py`. Encoder and
codebook stay, so that an image keeps its codes. Hardware: 2 CPU cores, 5
minutes beside other work. PSNR of held-out crops: 17.5 dB before, 17.9 after
200 steps of squared error, 18.0 after 200 more against a discriminator. With
the recipe's weight of it, 0.01, these 200 take PSNR down to 17.1: there a
perceptual loss stands beside it.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.losses import BlurDiscriminatorConfig
from tokpress_jax.train.config import TrainConfig
from tokpress_jax.train.tasks import AdversaryConfig, TokenizerTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('titok_photos_codes.py'))
  return dataclasses.replace(
    codes,
    name='titok_photos_decoder',
    task=TokenizerTask(
      model=codes.task.model,
      # Mean squares of pixels in [-1, 1]; the recipe's are in [0, 1].
      loss='l2',
      loss_weight=0.25,
      lengths='none',
      adversary=AdversaryConfig(
        weight=0.001,
        scaling='fixed',
        start=200,
        lecam=0.001,
        network=BlurDiscriminatorConfig(width=8, layers=2, places=8, groups=4),
      ),
    ),
    train=TrainConfig(
      steps=400,
      batch_size=32,
      ema_decay=0.99,
      freeze='^(encoder|quantizer)/',
      init_from='runs/titok_codes',
      init_regex='^(params|codebook)/(encoder|quantizer|decoder|painter)/',
      log_every=50,
      eval_every=200,
      checkpoint_every=200,
    ),
    optim=dataclasses.replace(codes.optim, learning_rate=1e-3),
  )
