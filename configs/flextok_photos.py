"""FlexTok at a small size: 16 tokens of a crop, drawn by a flow of pixels.

tokpress train configs/flextok_photos.py --workdir runs/flextok_photos
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import FSQConfig
from tokpress_jax.tokenizers import FlexTokConfig, TowerConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import FlowTokenizerTask


def get_config() -> Config:
  return Config(
    name='flextok_photos',
    task=FlowTokenizerTask(
      model=FlexTokConfig(
        image_size=32,
        channels=3,
        patch=4,
        tokens=16,
        encoder=TowerConfig(width=96, depth=2, heads=4),
        decoder=TowerConfig(width=96, depth=4, heads=4),
        quantizer=FSQConfig(levels=(8, 8, 8, 5, 5, 5), form='lucidrains'),
        vae=None,
        max_timestep=1.0,
        steps=10,
        guidance=1.0,
      ),
      lengths='powers',
      full=0.25,
      time_mean=0.5,
    ),
    data=DataConfig(name='photos', image_size=32, flip=True),
    train=TrainConfig(
      steps=750,
      batch_size=64,
      ema_decay=0.99,
      log_every=50,
      eval_every=750,
      checkpoint_every=250,
    ),
    optim=OptimConfig(
      learning_rate=3e-3,
      warmup_steps=100,
      final_scale=0.02,
      b2=0.99,
    ),
  )
