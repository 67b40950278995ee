"""ToMe inside `configs/vit_scenes.py`, fine-tuned at half of the FLOPs.

  tokpress train configs/vit_scenes_tome.py --workdir runs/vit_scenes_tome

From the weights in runs/vit_scenes. Another budget or pruner:
`--task.model.plan.flops 0.4`, `--task.model.plan.method random`; tokens per
layer in place of FLOPs: `--task.model.plan.flops None --task.model.plan.r 8`;
learned rates: `--task.plan-from runs/vit_diffrate`. Hardware: 1 CPU
core, one minute. Accuracy on 2,048 held-out drawings: 0.871, as the host has
with all tokens; ToMe needs no training for that here (0.870 off the shelf).
Random pruning goes from 0.692 to 0.790.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.pruners import PlanConfig
from tokpress_jax.train.config import TrainConfig


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  plan = PlanConfig(method='tome', flops=0.5)
  model = dataclasses.replace(base.task.model, plan=plan)
  return dataclasses.replace(
    base,
    name='vit_scenes_tome',
    task=dataclasses.replace(base.task, model=model),
    train=TrainConfig(
      steps=200,
      batch_size=64,
      ema_decay=0.98,
      init_from='runs/vit_scenes',
      log_every=50,
      checkpoint_every=200,
    ),
    optim=dataclasses.replace(base.optim, learning_rate=5e-4, warmup_steps=20),
  )
