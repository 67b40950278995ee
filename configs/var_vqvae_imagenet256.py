"""VAR's tokenizer on ImageNet at 256 pixels: 680 tokens, 10 scales, 109M.

  tokpress data prepare imagenet2012
  tokpress convert lpips vgg16-397923af.pth vgg.pth --out lpips.safetensors
  tokpress train configs/var_vqvae_imagenet256.py --workdir runs/var_vqvae

Network and quantiser have the sizes of Tian et al., "Visual Autoregressive
Modeling", arXiv 2404.02905. That paper says little of how its tokenizer was
trained, and its training code was never released; the recipe is that of the
VQGAN family as in LlamaGen (arXiv 2406.06525): squared error, LPIPS and, after
20,000 steps, a patch discriminator with VQGAN's adaptive weight, 40 epochs of
128 images, AdamW. LeCAM's weight is that of the TiTok family. We have not run
it. Hardware: meant for 8 accelerators with 32 GB or more; `--dry-run` prints
what a device needs, `--train.accumulate` divides it.

What is ours: each scale has a codebook of its own, because with one for all the
coarse scales come to use a few of its codes (`perplexity_k` of a run shows it),
codes follow their tokens by moving averages, and dead ones are revived; one
image in ten is decoded from a random number of scales, so that every number of
scales decodes. For the layout of VAR's released file, with its collapse:

  --task.model.quantizer.codebooks shared
  --task.model.quantizer.vq.learning gradient
  --task.model.quantizer.vq.revive-below 0

Other scales or another resolution: `--task.model.image-size`,
`--data.image-size` and `--task.model.quantizer.scales`, which must end with
image size / 16.
"""

from tokpress_jax.config import Config
from tokpress_jax.data import DataConfig
from tokpress_jax.quantize import MultiScaleVQConfig, VQConfig
from tokpress_jax.tokenizers import VARTokenizerConfig
from tokpress_jax.train.config import OptimConfig, TrainConfig
from tokpress_jax.train.tasks import AdversaryConfig, TokenizerTask

BATCH = 128
EPOCH = -(-1_281_167 // BATCH)  # steps


def get_config() -> Config:
  return Config(
    name='var_vqvae_imagenet256',
    task=TokenizerTask(
      model=VARTokenizerConfig(
        quantizer=MultiScaleVQConfig(
          vq=VQConfig(
            codebook_size=4096,
            dim=32,
            learning='ema',
            decay=0.995,
            revive_below=0.05,
          ),
          codebooks='scale',
        ),
      ),
      loss='l2',
      lengths='uniform',
      full=0.9,
      perceptual_weight=1.0,
      perceptual_file='lpips.safetensors',
      adversary=AdversaryConfig(weight=0.5, start=20_000, lecam=0.001),
    ),
    data=DataConfig(
      name='imagenet2012',
      eval_split='validation',
      image_size=256,
      channels=3,
      flip=True,
      random_crop=True,
      crop_min=0.8,
      crop_max=1.0,
    ),
    train=TrainConfig(
      steps=40 * EPOCH,
      batch_size=BATCH,
      precision='bfloat16',
      ema_decay=0.999,
      log_every=50,
      eval_every=EPOCH,
      checkpoint_every=EPOCH // 2,
    ),
    optim=OptimConfig(
      learning_rate=1e-4,
      warmup_steps=5_000,
      final_scale=0.1,
      b1=0.9,
      b2=0.95,
      weight_decay=0.05,
      clip_norm=1.0,
    ),
  )
