"""A pyramid of 1 + 4 + 16 + 64 tokens (680 bits) per crop of a photograph.

  tokpress train configs/var_vqvae_photos.py --workdir runs/var_vqvae_photos

VAR's tokenizer at a small size, each scale with a codebook of its own.
Hardware: 2 CPU cores, some 20 minutes. It was not run to its end in this form.
With one standardised codebook for all scales (`codebooks shared`, `standardize
scale`, 1,500 steps) every scale raised the PSNR of held-out crops, 15.9, 17.0,
18.2 and 19.5 dB, and the scales' code perplexities were 0.17, 0.63, 0.84 and
1.02 of k-means' on the same residuals there, 0.23, 0.63, 0.92 and 1.23 on the
training crops.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import MultiScaleVQConfig, VQConfig
from tokpress_jax.tokenizers import VARTokenizerConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config() -> Config:
  return Config(
    name='var_vqvae_photos',
    task=TokenizerTask(
      model=VARTokenizerConfig(
        image_size=64,
        channels=3,
        patch=8,
        width=16,
        multipliers=(1, 2, 2, 4),
        blocks=1,
        groups=8,
        quantizer=MultiScaleVQConfig(
          vq=VQConfig(
            codebook_size=256, dim=16, learning='ema', revive_below=0.1
          ),
          scales=(1, 2, 4, 8),
          phi=0,
          codebooks='scale',
        ),
      ),
      loss='decibel',
      loss_weight=0.1,
      lengths='uniform',
      full=0.5,
    ),
    data=DataConfig(name='photos', flip=True),
    train=TrainConfig(
      steps=2000,
      batch_size=16,
      ema_decay=0.99,
      log_every=20,
      eval_every=250,
      checkpoint_every=250,
    ),
    optim=OptimConfig(
      learning_rate=2e-3,
      warmup_steps=50,
      final_scale=0.02,
      b2=0.99,
    ),
  )
