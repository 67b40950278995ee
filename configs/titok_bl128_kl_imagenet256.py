"""TiTok-BL-128 in one stage with continuous tokens, of 16 features each.

  tokpress train configs/titok_bl128_kl_imagenet256.py --workdir runs/titok_kl

As `configs/titok_bl128_vq_imagenet256.py`, whose files it needs, with a
Gaussian in place of the codebook. Hardware: as there. We have not run it.

The other sizes, as `--task.model.FIELD`:

  |               | BL-128 | BL-64 | LL-32 |
  |---------------|--------|-------|-------|
  | tokens        | 128    | 64    | 32    |
  | encoder.width | 768    | 768   | 1024  |
  | encoder.depth | 12     | 12    | 24    |
  | encoder.heads | 12     | 12    | 16    |
  | rFID          | 0.84   | 1.25  | 1.61  |
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.quantize import GaussianConfig


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('titok_bl128_vq_imagenet256.py'))
  model = dataclasses.replace(
    codes.task.model, quantizer=GaussianConfig(dim=16, kl_weight=1e-6)
  )
  return dataclasses.replace(
    codes,
    name='titok_bl128_kl_imagenet256',
    task=dataclasses.replace(codes.task, model=model),
  )
