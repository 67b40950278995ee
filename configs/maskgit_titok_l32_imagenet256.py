"""MaskGIT on TiTok-L-32's 32 tokens, ImageNet at 256 pixels: 177M parameters.

  tokpress data prepare imagenet2012
  tokpress train configs/maskgit_titok_l32_imagenet256.py --workdir runs/maskgit

The recipe of Yu et al., "An Image is Worth 32 Tokens for Reconstruction and
Generation", arXiv 2406.07550, and its code: 500,000 steps of 2,048 images, one
in ten without its class. Of the released tokenizer (`--task.tokenizer
runs/titok` for your own). Hardware: the authors train on 32 GPUs, 64 images
each. We have not run it.

The other tokenizers, their networks as `--task.model.FIELD`, and how to sample
each (`tokpress sample RUN --annealing noise+softmax --schedule ramp`; for S-128
`--schedule power-cosine --power 3`):

  |                                   | L-32   | B-64   | S-128  |
  |-----------------------------------|--------|--------|--------|
  | --task.tokenizer titok-...        | l32    | b64    | s128   |
  | network                           | bert   | bert   | uvit   |
  | width                             | 768    | 768    | 1024   |
  | depth                             | 24     | 24     | 21     |
  | norm-eps                          | 1e-12  | 1e-12  | 1e-5   |
  | --steps                           | 8      | 8      | 64     |
  | --guidance                        | 4.5    | 3      | 6.9    |
  | --temperature --choice-temperature | 9.5   | 11     | 2.8    |
  | FID in the paper                  | 2.77   | 2.48   | 1.97   |

One-D-Piece's generators are trained so, too: `--task.tokenizer
one-d-piece-s256`, 16 steps, guidance 12.5 (B: 8.5, L: 5.5) by power-cosine,
temperature 3 (B: 2.5); FID 2.67, 2.70 and 2.35.

What differs from the official training: it also drops attention weights and the
MLPs' hidden features.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import MaskGITConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask


def get_config() -> Config:
  return Config(
    name='maskgit_titok_l32_imagenet256',
    task=GeneratorTask(
      tokenizer='titok-l32',
      model=MaskGITConfig(
        tokens=32,
        prefixes=(32,),
        width=768,
        depth=24,
        heads=16,
        class_dropout=0.1,
        dropout=0.1,
      ),
      smoothing=0.1,
      unmasked_weight=0.1,
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      flip=True,
    ),
    train=TrainConfig(
      steps=500_000,
      batch_size=2048,
      precision='bfloat16',
      ema_decay=0.999,
      log_every=50,
      eval_every=50_000,
      checkpoint_every=10_000,
    ),
    optim=OptimConfig(
      learning_rate=2e-4,
      warmup_steps=10_000,
      warmup_scale=0.0,
      final_scale=0.05,
      b1=0.9,
      b2=0.96,
      weight_decay=0.03,
      decay_mask='kernel$',
      clip_norm=1.0,
    ),
  )
