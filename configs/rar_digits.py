"""RAR on the rows of configs/one_d_digits.py: any order first, raster at last.

  tokpress train configs/rar_digits.py --workdir runs/rar

Train the tokenizer first. Hardware: one busy CPU core, 10 minutes. Class
agreement of 500 samples (guidance 1, top-p 0.95): 0.99; loss on the test scans
in raster order: 3.60.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import RARConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask


def get_config() -> Config:
  return Config(
    name='rar_digits',
    task=GeneratorTask(
      tokenizer='runs/one_d',
      # Half of the steps in random orders, a quarter for the fall: as in the
      # paper.
      model=RARConfig(
        width=96,
        depth=4,
        heads=4,
        class_dropout=0.1,
        dropout=0.1,
        anneal=(400, 600),
      ),
    ),
    data=DataConfig(name='digits'),
    train=TrainConfig(
      steps=800,
      batch_size=128,
      ema_decay=0.99,
      log_every=50,
      eval_every=200,
      checkpoint_every=400,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=50, b2=0.95, weight_decay=0.1
    ),
  )
