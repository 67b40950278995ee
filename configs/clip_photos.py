"""A small CLIP of crops of photographs and what these show.

  tokpress train configs/clip_photos.py --workdir runs/clip_photos

144 patches of a crop, and what the whole photograph shows. All 20 photographs
are trained on; a tenth of the crops of each is held out, so that it knows these
and no others. Hardware: 2 CPU cores that did much else, 5 minutes of steps.
Recall at 1 within 64 held-out crops: of the text of a crop 0.996, of a crop of
a text 1. The loss cannot fall to 0, since a batch has some texts several times.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.models import CLIPConfig, ClipTextConfig, ViTConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import ContrastiveTask


def get_config() -> Config:
  return Config(
    name='clip_photos',
    task=ContrastiveTask(
      model=CLIPConfig(
        image=ViTConfig(
          image_size=60,
          channels=3,
          patch=5,
          classes=0,
          features=64,
          width=64,
          depth=4,
          heads=2,
          mlp_ratio=2.0,
          activation='relu',
        ),
        text=ClipTextConfig(
          width=64,
          depth=2,
          heads=2,
          mlp_ratio=2.0,
          activation='relu',
          features=64,
        ),
      ),
    ),
    data=DataConfig(
      name='photos',
      split='train[:90%]+test[:90%]',
      eval_split='train[90%:]+test[90%:]',
      image_size=60,
      flip=True,
      random_crop=True,
    ),
    train=TrainConfig(
      steps=150,
      batch_size=64,
      ema_decay=0.99,
      log_every=20,
      eval_every=50,
      checkpoint_every=50,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=20, b2=0.99, weight_decay=0.05
    ),
  )
