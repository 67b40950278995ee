"""TiTok-BL-128 in one stage on ImageNet at 256 pixels: 128 tokens, 390M.

  tokpress data prepare imagenet2012
  tokpress convert lpips vgg16-397923af.pth vgg.pth --out lpips.safetensors
  tokpress convert convnext convnext_small-*.pth --out convnext.safetensors
  tokpress train configs/titok_bl128_vq_imagenet256.py --workdir runs/titok

No VQGAN: the decoder gives pixels, and squared error, LPIPS, ConvNeXt-S's
logits and, from step 200,000, a discriminator train all at once. The losses and
rates are those published for TA-TiTok (Kim et al., arXiv 2501.07730), without
the text; steps and batch those that the authors name for the single-stage TiTok
(issue 67 of bytedance/1d-tokenizer): a million of 256 images. Hardware: meant
for 8 accelerators with 40 GB or more; `--dry-run` prints what a device needs.
Expected: rFID 1.49. We have not run it, and others have not reached it: issue
114 reports 5 with 512 images a step.

The other sizes, as `--task.model.FIELD`; with continuous tokens see
`configs/titok_bl128_kl_imagenet256.py`:

  |               | BL-128 | BL-64 | SL-256 |
  |---------------|--------|-------|--------|
  | tokens        | 128    | 64    | 256    |
  | encoder.width | 768    | 768   | 512    |
  | encoder.depth | 12     | 12    | 8      |
  | encoder.heads | 12     | 12    | 8      |
  | rFID          | 1.49   | 2.06  | 1.03   |

What differs from the official training: dead codes become halves of busy ones
(`revive_below`, at about the use below which the official code replaces them by
the nearest features of the batch); LPIPS sees pixels in [-1, 1], as it was
made, there in [0, 1], so that it weighs more here; bfloat16 for float16; and
what `configs/titok_l32_decoder_imagenet256.py` says of the discriminator.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.losses import BlurDiscriminatorConfig
from tokpress_jax.quantize import VQConfig
from tokpress_jax.tokenizers import TOWERS, TiTokConfig
from tokpress_jax.train.tasks import AdversaryConfig, TokenizerTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('titok_l32_codes_imagenet256.py'))
  return Config(
    name='titok_bl128_vq_imagenet256',
    task=TokenizerTask(
      model=TiTokConfig(
        tokens=128,
        encoder=TOWERS['base'],
        decoder=TOWERS['large'],
        quantizer=VQConfig(
          codebook_size=8192,
          dim=64,
          revive_below=0.005,
          init_scale=1 / (3**0.5 * 8192),
        ),
      ),
      # The official squares are of pixels in [0, 1], ours in [-1, 1].
      loss='l2',
      loss_weight=0.25,
      lengths='none',
      # 1.1 times their mean with weights 1 and 0.1.
      perceptual_weight=1.0,
      perceptual_file='lpips.safetensors',
      convnext_weight=0.1,
      convnext_file='convnext.safetensors',
      adversary=AdversaryConfig(
        weight=0.1,
        start=200_000,
        scaling='fixed',
        lecam=0.001,
        network=BlurDiscriminatorConfig(),
      ),
    ),
    data=codes.data,
    train=codes.train,
    optim=dataclasses.replace(codes.optim, b2=0.999),
  )
