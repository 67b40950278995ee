"""DiffRate: how many tokens each layer of `configs/vit_scenes.py` keeps.

  tokpress train configs/vit_scenes_diffrate.py --workdir runs/vit_diffrate

For the host in runs/vit_scenes, at a target of half of the FLOPs; another:
`--task.flops 0.75`. A target below 0.285 is out of reach, as the first layer
stays whole. Hardware: 1 CPU core, one minute. The learned numbers go with the
model: `load` prunes by them, `tokpress export` writes them, and
`--task.plan-from` of `configs/vit_scenes_tome.py` fine-tunes with them.

From even rates, accuracy on 2,048 held-out drawings under the masks is 0.785 at
a share of 0.519. `launch/pruning_curve.sh` starts each target from the rates of
the one above: 0.865, 0.850, 0.668 and 0.704 at 0.877, 0.752, 0.532 and 0.424.
Where the tokens leave it is 0.865, 0.850, 0.690 and 0.527: masses are at least
1 while learning and fall with the similarity of what merges afterwards (both as
in the official code). Fine-tuned, all are within 0.004 of the host.

Targets of 0.375 and 0.3 from even rates ended in layers that keep next to
nothing, from which no gradient leads back; a smaller learning rate, 60 steps
without the FLOPs and, at 0.5, ten times their weight did not help.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import DiffRateTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  return dataclasses.replace(
    base,
    name='vit_scenes_diffrate',
    task=DiffRateTask(
      model=base.task.model, classifier='runs/vit_scenes', flops=0.5
    ),
    train=TrainConfig(
      steps=200,
      batch_size=64,
      log_every=25,
      checkpoint_every=200,
    ),
    optim=OptimConfig(learning_rate=0.1, final_scale=0.1),
  )
