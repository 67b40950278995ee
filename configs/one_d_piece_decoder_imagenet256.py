"""One-D-Piece-S-256's second stage: the decoder and its painter, on images.

  tokpress convert convnext convnext_small-*.pth --out convnext.safetensors
  tokpress train configs/one_d_piece_decoder_imagenet256.py --workdir runs/piece

TiTok's second stage (`configs/titok_l32_decoder_imagenet256.py`) through random
prefixes, from `runs/codes`, a run of
`configs/one_d_piece_codes_imagenet256.py`. Hardware: the authors have 8
H100, with 64 images each (L: 32, twice). We have not run it.

The larger models, as `--task.model.FIELD`, and the paper's rFID at 256 tokens:

  |                              | S-256 | B-256 | L-256 |
  |------------------------------|-------|-------|-------|
  | encoder.width, decoder.width | 512   | 768   | 1024  |
  | encoder.depth, decoder.depth | 8     | 12    | 24    |
  | encoder.heads, decoder.heads | 8     | 12    | 16    |
  | rFID                         | 1.48  | 1.11  | 1.08  |
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('one_d_piece_codes_imagenet256.py'))
  titok = config_lib.load(here.with_name('titok_l32_decoder_imagenet256.py'))
  quantizer = titok.task.model.quantizer
  return dataclasses.replace(
    titok,
    name='one_d_piece_decoder_imagenet256',
    task=dataclasses.replace(
      titok.task,
      model=dataclasses.replace(codes.task.model, quantizer=quantizer),
      lengths=codes.task.lengths,
      full=codes.task.full,
    ),
    train=dataclasses.replace(titok.train, batch_size=512),
  )
