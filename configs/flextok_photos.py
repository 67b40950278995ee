"""FlexTok at a small size: 16 tokens of a crop, drawn by a flow of pixels.

  tokpress train configs/flextok_photos.py --workdir runs/flextok_photos

Hardware: 2 CPU cores; about a step a second with one core to itself, 13
minutes. It shows that the training runs; it is far too short for good pictures.
PSNR of held-out crops with 1, 2, 4, 8 and all tokens: 14.8, 14.8, 14.8, 15.0,
15.0 dB after 750 steps (12.5, 12.6, 12.8, 13.0, 13.0 after 100). Tokens carry
an image's colours so far; shapes come from the noise, which is the same for all
images. Error of the velocity with tokens and without: 0.205, 0.226. In 1, 2, 5,
10 and 25 steps of the flow, all tokens, 128 crops: 13.7, 15.4, 15.3, 15.2, 15.0
dB (`tokpress report runs/flextok_photos --out DIR --step-counts 1 2 5 10 25`),
as what is drawn has more detail, and wrong detail, with more steps. That run
was stopped and resumed at step 647, up to which its rate fell towards 1000
steps and not 750.
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
