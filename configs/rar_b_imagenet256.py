"""RAR-B on ImageNet at 256 pixels: 259M parameters, 256 tokens.

  tokpress data prepare imagenet2012
  tokpress train configs/rar_b_imagenet256.py --workdir runs/rar_b

The recipe of Yu et al., "Randomized Autoregressive Visual Generation", arXiv
2411.00776, on MaskGIT's VQGAN: random orders for 200 epochs, ever fewer for
100, raster for 100. Hardware: the authors train on 32 GPUs, 64 images each.
Expected, from the paper: FID 1.95 of 50,000 samples. We have not run it.

The larger models, as `--task.model.FIELD`, and how to sample each (`tokpress
sample rar-b --schedule power-cosine --guidance 16 --power 2.75`):

  |                    | B       | L       | XL      | XXL     |
  |--------------------|---------|---------|---------|---------|
  | model.width        | 768     | 1024    | 1280    | 1408    |
  | model.depth        | 24      | 24      | 32      | 40      |
  | model.mlp-ratio    | 4       | 4       | 4       | 4.36364 |
  | --guidance         | 16      | 15.5    | 6.9     | 8       |
  | --power            | 2.75    | 2.5     | 1.5     | 1.2     |
  | --temperature      | 1       | 1.02    | 1.02    | 1.02    |
  | FID in the paper   | 1.95    | 1.70    | 1.50    | 1.48    |

What differs from the official training: it also drops attention weights and the
MLPs' hidden features; it reads codes that were made once (`tokpress encode`
makes such a cache), here each step tokenises the central square or its mirror.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import RARConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask

BATCH = 2048
EPOCH = 625  # steps


def get_config() -> Config:
  return Config(
    name='rar_b_imagenet256',
    task=GeneratorTask(
      tokenizer='maskgit-vqgan',
      model=RARConfig(
        codebook_size=1024,
        width=768,
        depth=24,
        heads=16,
        class_dropout=0.1,
        dropout=0.1,
        anneal=(200 * EPOCH, 300 * EPOCH),
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
      steps=400 * EPOCH,
      batch_size=BATCH,
      precision='bfloat16',
      log_every=50,
      eval_every=10 * EPOCH,
      checkpoint_every=EPOCH,
    ),
    optim=OptimConfig(
      learning_rate=4e-4,
      schedule='warmup-cosine',
      warmup_steps=100 * EPOCH,
      final_scale=1e-5 / 4e-4,
      b1=0.9,
      b2=0.96,
      weight_decay=0.03,
      # The official code spares the last modulation, by the "ln" in its name.
      decay_mask=r'(?<!head/ada/)kernel$|start/table$',
      clip_norm=1.0,
    ),
  )
