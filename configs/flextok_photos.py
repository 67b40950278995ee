"""FlexTok at a small size: 16 tokens of a crop, drawn by a flow of pixels.

  tokpress train configs/flextok_photos.py --workdir runs/flextok_photos
  tokpress report runs/flextok_photos --out DIR --step-counts 1 2 5 10 25

Hardware: 2 CPU cores; 22 minutes with one to itself (2.7 steps a second). PSNR
of held-out crops with 1, 2, 4, 8 and all tokens in 10 steps of the flow: 15.6,
16.2, 16.8, 17.7, 18.0 dB; all tokens in 1, 2, 5, 10 and 25 steps: 17.4, 18.8,
18.4, 18.0, 17.6 dB, as what is drawn has more detail, and wrong detail, with
more steps. Error of the velocity with tokens and without: 0.189, 0.215. Colours
come with the first token, where light and dark lie with 4 to 8; finer texture
comes from the noise, which is the same for all images. Gates that start open
and times with more noise make the tokens matter early: from closed gates and
half the noise a run of 750 steps had colours only (14.8 to 15.0 dB).
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
        gate_init=0.5,
      ),
      lengths='powers',
      full=0.25,
      time_mean=1.0,
    ),
    data=DataConfig(name='photos', image_size=32, flip=True),
    train=TrainConfig(
      steps=3500,
      batch_size=32,
      ema_decay=0.99,
      log_every=50,
      eval_every=3500,
      checkpoint_every=500,
    ),
    optim=OptimConfig(
      learning_rate=2e-3,
      warmup_steps=100,
      final_scale=0.02,
      b2=0.99,
    ),
  )
