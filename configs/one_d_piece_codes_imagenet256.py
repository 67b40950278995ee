"""One-D-Piece-S-256's first stage on ImageNet: up to 256 tokens, proxy codes.

  tokpress data prepare imagenet2012
  tokpress train configs/one_d_piece_codes_imagenet256.py --workdir runs/codes

TiTok's first stage (`configs/titok_l32_codes_imagenet256.py`) through random
prefixes: one length a batch, drawn uniformly of 1 to 256, so that every prefix
decodes (Miwa et al., "One-D-Piece", arXiv 2501.10064). Then
`configs/one_d_piece_decoder_imagenet256.py`. Hardware: the authors have 8
H100, with 128 images each (L: 32, four times). We have not run it.

The larger models, as `--task.model.FIELD`:

  |                              | S-256 | B-256 | L-256 |
  |------------------------------|-------|-------|-------|
  | encoder.width, decoder.width | 512   | 768   | 1024  |
  | encoder.depth, decoder.depth | 8     | 12    | 24    |
  | encoder.heads, decoder.heads | 8     | 12    | 16    |

What differs from the official training: there each device draws a length of its
own, here the whole batch has one; `--task.lengths uniform` draws one per image.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.tokenizers import TOWERS


def get_config() -> Config:
  here = pathlib.Path(__file__)
  titok = config_lib.load(here.with_name('titok_l32_codes_imagenet256.py'))
  model = dataclasses.replace(
    titok.task.model,
    tokens=256,
    encoder=TOWERS['small'],
    decoder=TOWERS['small'],
    prefixes='any',
  )
  return dataclasses.replace(
    titok,
    name='one_d_piece_codes_imagenet256',
    task=dataclasses.replace(
      titok.task, model=model, lengths='batch', full=0.0
    ),
    train=dataclasses.replace(titok.train, batch_size=1024),
  )
