"""A ViT that counts the shapes of a drawing: the host of the pruning curve.

  tokpress train configs/vit_scenes.py --workdir runs/vit_scenes

64 patches, of which the label needs many: 1 to 8 shapes lie at random places,
each on several patches, and one that is missed changes the class. So tokens
cannot be dropped blindly, and most of the ground can be spared. Hardware: 1 CPU
core, about 10 minutes. Accuracy on 2,048 held-out drawings: 0.871 (standard
error 0.007); by chance, 0.125. The 4,096 drawings of the split `train` are
learned by heart: 0.842 after 2,500 steps, and 0.97 on training batches.

`launch/pruning_curve.sh` trains it, prunes it, fine-tunes it with pruners
inside and draws the curve. Accuracy with pruners after the attention of every
layer, as it is and after 200 steps of `configs/vit_scenes_tome.py` (without any
pruner these give 0.872):

| share of FLOPs              | 0.875 | 0.75  | 0.5   | 0.4   |
|-----------------------------|-------|-------|-------|-------|
| ToMe                        | 0.872 | 0.873 | 0.870 | 0.866 |
| DiffRate, its rates learned | 0.865 | 0.850 | 0.690 | 0.527 |
| random (5 draws)            | 0.840 | 0.788 | 0.692 | 0.605 |
| stride                      | 0.858 | 0.788 | 0.719 | 0.640 |
| top attention               | 0.849 | 0.771 | 0.573 | 0.361 |
| ToMe, fine-tuned            | 0.867 | 0.871 | 0.871 | 0.866 |
| DiffRate, fine-tuned        | 0.873 | 0.868 | 0.867 | 0.867 |
| random, fine-tuned          | 0.847 | 0.819 | 0.790 | 0.768 |

DiffRate's shares are 0.877, 0.752, 0.532 and 0.424. At the last two its rates
alone lose to random pruning of as many FLOPs, by 0.016 and 0.110 (standard
error of the paired difference 0.010). Everywhere else ToMe and DiffRate beat
it, by 0.020 to 0.261. A smaller image, off the shelf, has 0.260 at 0.733.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.models.vit_config import ViTConfig
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
