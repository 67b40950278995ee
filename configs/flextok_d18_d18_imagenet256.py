"""FlexTok d18-d18 on ImageNet at 256 pixels: 256 tokens, 865M and 84M frozen.

  tokpress data prepare imagenet2012
  tokpress train configs/flextok_d18_d18_imagenet256.py --workdir runs/flextok

The flow is in the latents of a published autoencoder, which is downloaded, or
converted by `tokpress convert flextok-vae-c16 FILE` with its config.json beside
it; `--task.model.vae.scaling` is the number there ("scaling_factor"). Rates,
steps and batch are our choice: the official training code is not published, and
uses the maximal update parametrisation, which is here in the attention's scale
alone. Hardware: meant for 8 accelerators with 80 GB; `--dry-run` prints what a
device needs. We have not run it. GPSToken (arXiv 2509.01109, table 1) measures
an rFID of 4.02 for the published weights, with all tokens.

The other sizes: `--task.model.encoder.width 768 --task.model.encoder.depth 12
--task.model.encoder.heads 12`, the decoder likewise, are d12-d12; a decoder of
1792, 28 and 28 makes d18-d28.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.tokenizers import FlexTokConfig, TowerConfig
from tokpress_jax.train.tasks import FlowTokenizerTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('titok_l32_codes_imagenet256.py'))
  tower = TowerConfig(width=1152, depth=18, heads=18)
  return Config(
    name='flextok_d18_d18_imagenet256',
    task=FlowTokenizerTask(
      model=FlexTokConfig(encoder=tower, decoder=tower),
      vae='flextok-vae-c16',
      lengths='powers',
      full=0.0,
    ),
    data=codes.data,
    train=dataclasses.replace(codes.train, steps=500_000, batch_size=1024),
    optim=dataclasses.replace(
      codes.optim, learning_rate=2e-4, b2=0.95, weight_decay=0.02
    ),
  )
