"""A compressor behind the frozen ViT of drawings, trained to count shapes.

  tokpress train configs/vit_scenes.py --workdir runs/vit_scenes
  tokpress train configs/compress_scenes.py --workdir runs/compress_scenes

Hardware: 1 CPU core; 160 steps took 80 to 130 s of its time, compiling and
evaluation included. This is M3: means of windows, the loss a mean over 64, 16,
4 and 1 tokens. Others:

  MQT        --task.model.compressor.method mqt
             --task.model.compressor.counts 64 --task.counting prefix
  TokenFLEX  ... token_flex, counts 64 36 16, counting drawn,
             --task.weights 0.5 0.3 0.2
  LLaVolta   ... neighbours, counts 64, counting curriculum
  a specialist: any method with one number, --task.model.compressor.counts 16

`launch/compressors.sh` trains them all and draws accuracy against tokens.

The tokens are those of the tower's first layer. Behind more attention each
holds a part of the answer: a single random token of `--task.model.layer 2`
gives 0.516 to a reader that was trained on 16 pooled ones, and 0.192 of the
first layer (by chance 0.125).

There are no numbers of these commands yet, but of shorter trainings: with
`--train.steps 160`, behind a tower that was stopped at step 736 of 1,200.
Accuracy on 2,048 held-out drawings (standard error 0.010):

| layer 2, tokens              | 64    | 36    | 16    | 9     | 4     | 1     |
|------------------------------|-------|-------|-------|-------|-------|-------|
| trained on all 64            | 0.758 |       |       |       |       |       |
| its reader, pooled tokens    |       |       | 0.651 |       | 0.556 | 0.503 |
| its reader, random tokens    |       | 0.737 | 0.698 | 0.644 | 0.558 | 0.402 |
| its reader, stride           |       | 0.741 | 0.695 | 0.633 | 0.519 | 0.414 |
| pooling, trained at 16 alone | 0.709 |       | 0.757 |       | 0.730 | 0.688 |
| MQT, one model               | 0.730 | 0.729 | 0.722 | 0.713 | 0.708 | 0.698 |
| M3, one model                | 0.759 |       | 0.750 |       | 0.740 | 0.744 |
| its reader, random tokens    |       | 0.745 | 0.725 | 0.710 | 0.663 | 0.561 |

M3's one model is within the error of readers trained at one number alone, at 64
and at 16, and loses at most 0.019 down to a single token. A reader of all 64
loses 0.107 if they are pooled to 16, more than of random ones (0.060). MQT's
one model loses 0.032 down to one token, which its training never draws, but at
64 it is 0.028 below the reader of all tokens; its own specialists were not
trained. Of the first layer, pooling trained at 16 alone
has 0.450, 0.705, 0.474 and 0.327 at 64, 16, 4 and 1 tokens, and its reader
0.402 with 16 random ones. TokenFLEX, TokenPacker, LLaVolta and those that read
a text have no numbers yet.
"""

import dataclasses
import pathlib

from tokpress_jax import config as config_lib
from tokpress_jax.config import Config
from tokpress_jax.models import CompressorConfig, ReaderConfig
from tokpress_jax.pruners.compressors import Curriculum
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import CompressorTask


def get_config() -> Config:
  here = pathlib.Path(__file__)
  base = config_lib.load(here.with_name('vit_scenes.py'))
  return dataclasses.replace(
    base,
    name='compress_scenes',
    task=CompressorTask(
      model=ReaderConfig(
        tower=base.task.model,
        layer=0,
        compressor=CompressorConfig(method='pool', counts=(64, 16, 4, 1)),
        width=64,
        depth=2,
        heads=4,
        classes=8,
      ),
      tower='runs/vit_scenes',
      counting='nested',
      curriculum=Curriculum(
        strides=(8, 2, 2, 1), layers=(0, 0, 1, 0), until=(200, 400, 600)
      ),
    ),
    train=TrainConfig(
      steps=800,
      batch_size=64,
      ema_decay=0.99,
      log_every=100,
      checkpoint_every=400,
    ),
    optim=OptimConfig(
      learning_rate=2e-3, warmup_steps=50, b2=0.99, weight_decay=0.05
    ),
  )
