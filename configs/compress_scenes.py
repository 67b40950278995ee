"""A compressor behind the frozen ViT of drawings, trained to count shapes.

  tokpress train configs/vit_scenes.py --workdir runs/vit_scenes
  tokpress train configs/compress_scenes.py --workdir runs/compress_scenes

Hardware: 1 CPU core; 200 steps take about a minute, compiling and evaluation
included. This is M3: means of windows, the loss a mean over 64, 16,
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

`STEPS=200 ./launch/compressors.sh`, 45 minutes on one core: accuracy on 2,048
held-out drawings (standard error 0.009), behind a tower of 0.877. In brackets:
numbers of tokens that a reader was not trained at; TokenFLEX's are 64 36 16.

| tokens                     | 64    | 36      | 16      | 4       | 1       |
|----------------------------|-------|---------|---------|---------|---------|
| trained on all 64          | 0.822 |         | (0.490) | (0.337) | (0.268) |
| its reader, random tokens  | 0.822 | (0.572) | (0.398) | (0.248) | (0.179) |
| random, at 64 16 4 1       | 0.585 | (0.576) | 0.557   | 0.491   | 0.380   |
| stride, at 64 16 4 1       | 0.611 | (0.601) | 0.540   | 0.438   | 0.439   |
| pooling, at one number     |       |         | 0.817   | 0.804   | 0.806   |
| M3, one model              | 0.821 |         | 0.807   | 0.798   | 0.800   |
| MQT, at one number         | 0.781 |         | 0.779   | 0.779   | 0.778   |
| MQT, one model             | 0.784 | 0.782   | 0.770   | 0.740   | 0.693   |
| TokenFLEX, one model       | 0.764 | 0.785   | 0.768   | (0.607) | (0.471) |
| TokenPacker, at one number |       |         | 0.820   | 0.825   | 0.829   |
| LLaVolta, at its end       | 0.820 |         | (0.536) | (0.323) | (0.336) |
| QueCC                      |       |         | 0.821   |         |         |
| SliME (keeps all of 16)    |       |         | 0.813   |         |         |
| HICom, global              |       |         | 0.776   |         |         |
| HICom, local               |       |         | 0.713   |         |         |

M3's one model is within 0.010 of readers trained at one number alone. MQT's
loses 0.009, 0.039 and 0.085 to its own at 16, 4 and 1 token, which its
training seldom draws (1 never). TokenPacker loses nothing down to a single
token, whose query looks at all below it. LLaVolta ends with all tokens, at the
accuracy of a training with all. Pruned tokens lose most: what is dropped is
counted by nobody.

With `--task.asks word` nothing is shown yet: QueCC at 4 tokens, told the word
or not, ends at 0.442 and 0.443 after 1,200 steps, and the most common answer
is right in 0.442. The tower was trained to count, and may know no colours; one
of `configs/clip_scenes.py` would be the next to try.
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
