"""ElasticTok-FSQ on images: 256 to 4,096 tokens, 210M, of ImageNet's pixels.

  tokpress data prepare imagenet2012
  tokpress convert lpips vgg16-397923af.pth vgg.pth --out lpips.safetensors
  tokpress train configs/elastictok_fsq_imagenet256.py --workdir runs/elastictok

Sizes are those of the released tokenizer, losses and rates those of the
authors' example script (Yan et al., "ElasticTok", arXiv 2410.08368): squared
error and 0.1 LPIPS, a length drawn for each block, 64 rows of 4,096 tokens a
step, a rate of 1e-4 after 2,000 steps that stays, weight decay 1e-4, two
million steps. The clipping and the moments' decay are our choice. Hardware: the
authors have a TPU v4-512 for long videos; `--dry-run` prints what a device
needs (attention is over 4,096 tokens), `--train.accumulate` divides it. We have
not run it, and know of no published number for a training on ImageNet.

What differs: images only. An image is a block of four equal frames, of which
the loss sees the first. The authors train on 350M images of COYO, then on
videos; `reconstruct` takes videos in a loop of your own, and there is no data
source of videos here. Lengths are those kept, 256 to 4,096, where there they
are 257 to 4,096; LPIPS sees all images at 256 pixels, there one frame of a
device's at 224.

For the tokenizer with a Gaussian, which the authors' script trains, take
`tokenizers.elastictok_keys.released_config('vae')` as the model.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.tokenizers import ElasticTokConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import TokenizerTask


def get_config() -> Config:
  return Config(
    name='elastictok_fsq_imagenet256',
    task=TokenizerTask(
      model=ElasticTokConfig(),
      loss='l2',
      lengths='uniform',
      full=0.0,
      perceptual_weight=0.1,
      perceptual_file='lpips.safetensors',
    ),
    data=DataConfig(
      name='imagenet2012', eval_split='validation', image_size=256
    ),
    train=TrainConfig(
      steps=2_000_000,
      batch_size=64,
      log_every=100,
      eval_every=50_000,
      checkpoint_every=5_000,
    ),
    optim=OptimConfig(
      learning_rate=1e-4,
      schedule='constant',
      warmup_steps=2_000,
      warmup_scale=0.0,
      b1=0.9,
      b2=0.95,
      weight_decay=1e-4,
      clip_norm=1.0,
    ),
  )
