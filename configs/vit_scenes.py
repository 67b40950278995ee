"""A ViT that counts the shapes of a drawing: the host of the pruning curve."""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.models.vit import ViTConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import ClassifierTask


def get_config() -> Config:
  return Config(
    name='vit_scenes',
    task=ClassifierTask(
      model=ViTConfig(
        image_size=32,
        channels=3,
        patch=4,
        width=64,
        depth=6,
        heads=4,
        mlp_ratio=2.0,
        activation='relu',
      ),
      smoothing=0.0,
    ),
    data=DataConfig(
      name='scenes',
      split='train_many',
      eval_split='test_many',
      flip=True,
    ),
    train=TrainConfig(
      steps=3000,
      batch_size=64,
      ema_decay=0.99,
      log_every=100,
      eval_every=500,
      checkpoint_every=500,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=100, b2=0.99, weight_decay=0.05
    ),
  )
