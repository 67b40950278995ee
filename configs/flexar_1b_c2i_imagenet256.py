"""FlexAR-1B of classes: FlexTok's 256 ordered tokens, one by one; 1.08B.

  tokpress data prepare imagenet2012
  tokpress train configs/flexar_1b_c2i_imagenet256.py --workdir runs/flexar

Width and depth are those of the released EPFL-VILAB/FlexAR-1B-C2I, as far as
its name and code say; every prefix of what is drawn is an image (Bachmann et
al., "FlexTok", arXiv 2502.13967). Rates, steps and batch are our choice: no
training code is published, and the authors use the maximal update
parametrisation, which is not here. Each step tokenises the central squares or
their mirrors; `tokpress encode` makes a cache of tokens once. Hardware: meant
for 8 accelerators with 80 GB (`--mesh.fsdp 8`); `--dry-run` prints what a
device needs. We have not run it. The paper has an FID below 2 with 8 to 128
tokens for its models of classes.

The models of texts (`generators.FlexARConfig`) are not trained by a command: no
data set here has texts. Their training pass is open to a loop of your own.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import NextTokenConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask

WIDTH = 1664


def get_config() -> Config:
  return Config(
    name='flexar_1b_c2i_imagenet256',
    task=GeneratorTask(
      tokenizer='flextok-d18-d28-in1k',
      model=NextTokenConfig(
        codebook_size=64_000,
        tokens=256,
        num_classes=1000,
        width=WIDTH,
        depth=26,
        heads=26,
        activation='swiglu',
        mlp_ratio=int(8 / 3 * WIDTH) / WIDTH,
        bias='nowhere',
        norm='layer',
        positions='learned',
        class_dropout=0.1,
        remat=True,
      ),
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      flip=True,
    ),
    train=TrainConfig(
      steps=375_000,
      batch_size=1024,
      precision='bfloat16',
      log_every=50,
      eval_every=12_500,
      checkpoint_every=2_500,
    ),
    optim=OptimConfig(
      learning_rate=2e-4,
      schedule='warmup-cosine',
      warmup_steps=6_250,
      final_scale=0.1,
      b1=0.9,
      b2=0.95,
      weight_decay=0.05,
      clip_norm=1.0,
    ),
  )
