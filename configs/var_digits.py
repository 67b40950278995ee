"""A small VAR on the pyramids of configs/multi_scale_digits.py.

  tokpress train configs/var_digits.py --workdir runs/var

Train the tokenizer first. Hardware: 2 CPU cores, about 2 minutes. Class
agreement of 500 samples (guidance 1, top-p 0.95): 0.98, diversity 0.81, recall
0.65 (`tokpress report`).
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import ScaleWiseConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask


def get_config() -> Config:
  return Config(
    name='var_digits',
    task=GeneratorTask(
      tokenizer='runs/multi_scale',
      model=ScaleWiseConfig(
        width=96, depth=4, heads=4, class_dropout=0.1, dropout=0.1
      ),
    ),
    data=DataConfig(name='digits'),
    train=TrainConfig(
      steps=250,
      batch_size=128,
      ema_decay=0.99,
      log_every=50,
      eval_every=125,
      checkpoint_every=125,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=50, b2=0.95, weight_decay=0.1
    ),
  )
