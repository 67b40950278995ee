"""TiTok-L-32's first stage on ImageNet at 256 pixels: 32 tokens, proxy codes.

  tokpress data prepare imagenet2012
  tokpress train configs/titok_l32_codes_imagenet256.py --workdir runs/codes

Then `configs/titok_l32_decoder_imagenet256.py`. The recipe of Yu et al., "An
Image is Worth 32 Tokens for Reconstruction and Generation", arXiv 2406.07550,
and its code: a million steps of 256 images on the codes of MaskGIT's VQGAN
(`maskgit-vqgan`, fetched by name). Hardware: the authors' command has 8 GPUs
with 32 images each; `--dry-run` (once data and VQGAN are there) prints what a
device needs, `--train.accumulate` divides it. We have not run it. Expected:
`eval/accuracy` of proxy codes is not published; rFID after the second stage is
2.21.

The smaller models, as `--task.model.FIELD`:

  |                             | L-32 | B-64 | S-128 |
  |-----------------------------|------|------|-------|
  | tokens                      | 32   | 64   | 128   |
  | encoder.width, decoder.width | 1024 | 768 | 512   |
  | encoder.depth, decoder.depth | 24  | 12   | 8     |
  | encoder.heads, decoder.heads | 16  | 12   | 8     |

Tokens are those of the released weights (`layout='legacy'`: each mixes all
latents); `--task.model.layout token` gives each token a latent of its own.

What differs from the official training: bfloat16 where it has float16 (the
VQGAN, losses and distances are float32 in both); a matrix starts with the
deviation 1 / sqrt(inputs), where there most are 0.02.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import VQConfig
from tokpress_jax.tokenizers import TOWERS, MaskGITVQGANConfig, TiTokConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import ProxyTask


def get_config() -> Config:
  return Config(
    name='titok_l32_codes_imagenet256',
    task=ProxyTask(
      proxy='maskgit-vqgan',
      model=TiTokConfig(
        tokens=32,
        encoder=TOWERS['large'],
        decoder=TOWERS['large'],
        quantizer=VQConfig(codebook_size=4096, dim=12, distance='cosine'),
        layout='legacy',
        vqgan=MaskGITVQGANConfig(),
      ),
      lengths='none',
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      flip=True,
      random_crop=True,
      crop_min=1.0,
      crop_max=1.0,
    ),
    train=TrainConfig(
      steps=1_000_000,
      batch_size=256,
      precision='bfloat16',
      ema_decay=0.999,
      log_every=50,
      eval_every=50_000,
      checkpoint_every=10_000,
    ),
    optim=OptimConfig(
      learning_rate=1e-4,
      warmup_steps=10_000,
      warmup_scale=0.0,
      final_scale=0.1,
      b1=0.9,
      b2=0.99,
      weight_decay=1e-4,
      # The official code spares all that has "embed" in its name.
      decay_mask='(?<!patch_embed/)(?<!from_code/)kernel$',
      clip_norm=1.0,
    ),
  )
