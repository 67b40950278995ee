"""TiTok-L-32's second stage: the decoder and its painter, on images.

  tokpress convert convnext convnext_small-*.pth --out convnext.safetensors
  tokpress train configs/titok_l32_decoder_imagenet256.py --workdir runs/titok

From `runs/codes`, a run of `configs/titok_l32_codes_imagenet256.py`
(`--train.init-from` names another). Encoder, latent tokens and codebook stay:
an image keeps its codes. 500,000 steps of squared error, ConvNeXt-S's logits
and, from step 20,000, a discriminator. Hardware: the authors' command has 8
GPUs with 32 images each. We have not run it.

The smaller models, as `--task.model.FIELD`, and the rFID in the paper:

  |                              | L-32 | B-64 | S-128 |
  |------------------------------|------|------|-------|
  | tokens                       | 32   | 64   | 128   |
  | encoder.width, decoder.width | 1024 | 768  | 512   |
  | encoder.depth, decoder.depth | 24   | 12   | 8     |
  | encoder.heads, decoder.heads | 16   | 12   | 8     |
  | rFID                         | 2.21 | 1.70 | 1.71  |

A user measured 3.91 with the released S-128 (issue 105 of
bytedance/1d-tokenizer): say how rFID is measured when you compare.

What differs from the official training, beside what the first stage says: the
learning rate of the discriminator ends after its own 480,000 updates (there it
would after 497,500); its weights start as other convolutions here do; LeCAM
looks at each logit as in its own code (there at the means of a device's batch),
and its averages are those of all devices from the first batch on.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.losses import BlurDiscriminatorConfig
from tokpress_jax.train.tasks import AdversaryConfig, TokenizerTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  codes = config_lib.load(here.with_name('titok_l32_codes_imagenet256.py'))
  model = codes.task.model
  return dataclasses.replace(
    codes,
    name='titok_l32_decoder_imagenet256',
    task=TokenizerTask(
      model=dataclasses.replace(
        model,
        quantizer=dataclasses.replace(
          model.quantizer, commitment=0.0, codebook_weight=0.0
        ),
      ),
      # The official squares are of pixels in [0, 1], ours in [-1, 1].
      loss='l2',
      loss_weight=0.25,
      lengths=codes.task.lengths,
      full=codes.task.full,
      convnext_weight=0.1,
      convnext_file='convnext.safetensors',
      adversary=AdversaryConfig(
        weight=0.01,
        start=20_000,
        scaling='fixed',
        lecam=0.001,
        lecam_decay=0.999,
        network=BlurDiscriminatorConfig(),
      ),
    ),
    train=dataclasses.replace(
      codes.train,
      steps=500_000,
      freeze='^(encoder|quantizer)/',
      init_from='runs/codes',
      init_regex='^params/(encoder|quantizer|decoder|painter)/',
    ),
    optim=dataclasses.replace(codes.optim, warmup_steps=5_000, b2=0.999),
  )
