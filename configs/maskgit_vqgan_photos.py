"""A grid of 64 codes per 32 x 32 crop of a photograph: MaskGIT's VQGAN, tiny.

  tokpress train configs/maskgit_vqgan_photos.py --workdir runs/vqgan_photos

Its codes are what `configs/titok_photos_codes.py` learns to predict.
Hardware: 2 CPU cores, 11 minutes beside other work. PSNR of held-out
crops: 20.7 dB with 448 bits; 127 of 128 codes in use (perplexity 110).
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import VQConfig
from tokpress_jax.tokenizers import MaskGITVQGANConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config() -> Config:
  return Config(
    name='maskgit_vqgan_photos',
    task=TokenizerTask(
      model=MaskGITVQGANConfig(
        image_size=32,
        channels=3,
        patch=4,
        width=16,
        multipliers=(1, 2, 2),
        blocks=1,
        groups=8,
        quantizer=VQConfig(
          codebook_size=128, dim=16, learning='ema', revive_below=0.1
        ),
      ),
      loss='decibel',
      loss_weight=0.1,
      lengths='none',
    ),
    data=DataConfig(name='photos', image_size=32, flip=True),
    train=TrainConfig(
      steps=1000,
      batch_size=32,
      ema_decay=0.99,
      log_every=50,
      eval_every=250,
      checkpoint_every=250,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=50, final_scale=0.02, b2=0.99
    ),
  )
