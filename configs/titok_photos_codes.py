"""TiTok's first stage at a small size: 16 tokens (128 bits) for 64 codes.

  tokpress train configs/titok_photos_codes.py --workdir runs/titok_codes

The row of tokens learns to predict the codes of the VQGAN of
`configs/maskgit_vqgan_photos.py`, which is trained first. Then:
`configs/titok_photos_decoder.py`. Hardware: 2 CPU cores, 18 minutes beside much
other work. Of held-out crops 10.2% of the 128 codes are right (3.54 nats a
patch; a guess has 4.85), of training crops 19%; painted from these logits, PSNR
is 17.5 dB. Of the row's own 256 codes 71% are in use in a batch of 512 tokens
(perplexity 146).
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import VQConfig
from tokpress_jax.tokenizers import (
  MaskGITVQGANConfig,
  TiTokConfig,
  TowerConfig,
)
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import ProxyTask


def get_config() -> Config:
  tower = TowerConfig(width=96, depth=2, heads=4)
  return Config(
    name='titok_photos_codes',
    task=ProxyTask(
      proxy='runs/vqgan_photos',
      model=TiTokConfig(
        image_size=32,
        channels=3,
        patch=4,
        tokens=16,
        encoder=tower,
        decoder=tower,
        quantizer=VQConfig(
          codebook_size=256,
          dim=12,
          distance='cosine',
          learning='ema',
          revive_below=0.1,
        ),
        vqgan=MaskGITVQGANConfig(
          image_size=32,
          channels=3,
          patch=4,
          width=16,
          multipliers=(1, 2, 2),
          blocks=1,
          groups=8,
          quantizer=VQConfig(codebook_size=128, dim=16),
        ),
      ),
      lengths='none',
    ),
    data=DataConfig(name='photos', image_size=32, flip=True),
    train=TrainConfig(
      steps=1500,
      batch_size=32,
      ema_decay=0.99,
      log_every=50,
      eval_every=500,
      checkpoint_every=500,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=100, final_scale=0.02, b2=0.99
    ),
  )
