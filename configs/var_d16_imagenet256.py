"""VAR-d16 on ImageNet at 256 pixels: 310M parameters, 680 tokens, 10 scales.

  tokpress data prepare imagenet2012
  tokpress train configs/var_d16_imagenet256.py --workdir runs/var_d16

The recipe of Tian et al., "Visual Autoregressive Modeling", arXiv 2404.02905,
on the released tokenizer. Hardware: the authors report 2.5 days on 16 A100
GPUs. XLA puts a step at 16 GB for 48 images per device (`--dry-run`; 153 GB
without `remat`); `--train.accumulate` divides it. Expected, from the paper: FID
3.55 of 50,000 samples with guidance 1.5, top-k 900, top-p 0.96. We have not run
it.

This tokenises the images in every step. Or tokenise them once, here 10 crops of
each (18 GB), and train from the cache. Interrupted, `encode` goes on with the
files that are missing; `--part 3 16` makes it one of 16 processes:

  tokpress encode var-vqvae --data imagenet2012 --split train --crops 10
    --crop-min 0.8889 --crop-max 0.8889 --out caches/imagenet256
  tokpress encode var-vqvae --data imagenet2012 --split validation
    --out caches/imagenet256
  tokpress train configs/var_d16_imagenet256.py --workdir runs/var_d16
    --data.name tokens --data.data-dir caches/imagenet256
    --data.no-random-crop

The larger models, as `--task.model.FIELD`, `--train.FIELD`, `--optim.FIELD`:

  |                       | d16     | d20     | d24     | d30     |
  |-----------------------|---------|---------|---------|---------|
  | model.depth, .heads   | 16      | 20      | 24      | 30      |
  | model.width           | 1024    | 1280    | 1536    | 1920    |
  | model.drop-path       | 0.0667  | 0.0833  | 0.1     | 0.125   |
  | model.gate-init       | 1e-3    | 1e-3    | 1e-4    | 1e-5    |
  | train.batch-size      | 768     | 768     | 768     | 1024    |
  | train.steps           | 333800  | 417250  | 584150  | 438200  |
  | optim.warmup-steps    | 6676    | 8345    | 11683   | 8764    |
  | optim.learning-rate   | 3e-4    | 3e-4    | 2.4e-4  | 3.2e-4  |
  | optim.final-scale     | 0.1     | 0.1     | 0.01    | 0.01    |
  | optim.weight-decay-end|         |         |         | 0.08    |
  | epochs                | 200     | 250     | 350     | 350     |
  | FID in the paper      | 3.55    | 2.95    | 2.33    | 1.97    |

What differs from the official training: bfloat16 instead of float16; a crop of
8/9 of the shorter side is resized to 256 (bicubic), where the official code
resizes the shorter side to 288 (Lanczos) and cuts out 256; the evaluation sees
the whole central square instead of 8/9 of it.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.generators import ScaleWiseConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import GeneratorTask

BATCH = 768
EPOCH = -(-1_281_167 // BATCH)  # steps


def get_config() -> Config:
  return Config(
    name='var_d16_imagenet256',
    task=GeneratorTask(
      tokenizer='var-vqvae',
      model=ScaleWiseConfig(
        width=1024,
        depth=16,
        heads=16,
        class_dropout=0.1,
        drop_path=0.1 * 16 / 24,
        gate_init=1e-3,
        remat=True,
      ),
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      random_crop=True,
      crop_min=8 / 9,
      crop_max=8 / 9,
    ),
    train=TrainConfig(
      steps=200 * EPOCH,
      batch_size=BATCH,
      precision='bfloat16',
      log_every=50,
      eval_every=10 * EPOCH,
      checkpoint_every=EPOCH,
    ),
    optim=OptimConfig(
      learning_rate=1e-4 * BATCH / 256,
      schedule='warmup-hold-linear',
      warmup_steps=4 * EPOCH,
      warmup_scale=0.005,
      hold=0.05,
      final_scale=0.1,
      b1=0.9,
      b2=0.95,
      weight_decay=0.05,
      decay_mask=r'kernel$|class_embed',
      clip_norm=2.0,
    ),
  )
