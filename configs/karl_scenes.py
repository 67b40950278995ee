"""KARL on drawings with 1 to 8 shapes: up to 12 tokens, as many as are needed.

  tokpress train configs/karl_scenes.py --workdir runs/karl_scenes

Hardware: 2 CPU cores, 3 to 6 steps a second with both to itself. It is not
trained to a point where halting means anything: after 800 steps of a variant
(16 tokens) PSNR was 18.0 dB with 1 token and 18.8 with 16, and the rank
correlation of tokens and shapes 0.27, where KARL's claim needs 0.6. A constant
picture has 17.3 dB: the shapes are small, and reconstruction has to learn them
first (the tokenizer of `configs/one_d_photos.py` stays at 17.3 dB on these
drawings for 700 steps too).
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import FSQConfig
from tokpress_jax.tokenizers import KARLConfig, TowerConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import KARLTask


def get_config() -> Config:
  tower = TowerConfig(width=96, depth=2, heads=8, activation='relu')
  return Config(
    name='karl_scenes',
    task=KARLTask(
      model=KARLConfig(
        image_size=32,
        channels=3,
        patch=8,
        tokens=12,
        slots=12,
        encoder=tower,
        decoder=tower,
        quantizer=FSQConfig(levels=(8,) * 6),
        bins=(
          0.005,
          0.0075,
          0.01,
          0.0125,
          0.015,
          0.02,
          0.025,
          0.03,
          0.04,
          0.05,
          0.06,
          0.08,
          0.1,
          0.15,
          0.2,
        ),
        halting_width=64,
        places=4,
        vqgan=None,
        spread=0.5,
        projection='slot',
      ),
      stride=1,
      full=0.25,
      loss='decibel',
      loss_weight=1.0,
      halting_weight=0.2,
      shown=(0.02, 0.04),
    ),
    data=DataConfig(name='scenes', image_size=32, flip=True),
    train=TrainConfig(
      steps=1200,
      batch_size=32,
      ema_decay=0.99,
      log_every=50,
      eval_every=500,
      checkpoint_every=500,
    ),
    optim=OptimConfig(
      learning_rate=4e-3, warmup_steps=100, final_scale=0.02, b2=0.99
    ),
  )
