"""Numbers that say how good images, codes and samples are."""

from tokpress_jax.metrics.frechet import FeatureStats, frechet_distance
from tokpress_jax.metrics.images import psnr, ssim
from tokpress_jax.metrics.judge import (
  Judge,
  JudgeConfig,
  class_agreement,
  train_judge,
)
from tokpress_jax.metrics.kmeans import PatchCoding, fit_kmeans, patch_coding
from tokpress_jax.metrics.neighbours import (
  PrecisionRecall,
  class_spread,
  distances,
  nearest_distance,
  precision_recall,
  sample_diversity,
)
from tokpress_jax.metrics.rate import (
  RatePoint,
  bits_per_pixel,
  rate_distortion,
)
from tokpress_jax.quantize.base import perplexity, usage

__all__ = [
  'FeatureStats',
  'Judge',
  'JudgeConfig',
  'PatchCoding',
  'PrecisionRecall',
  'RatePoint',
  'bits_per_pixel',
  'class_agreement',
  'class_spread',
  'distances',
  'fit_kmeans',
  'frechet_distance',
  'nearest_distance',
  'patch_coding',
  'perplexity',
  'precision_recall',
  'psnr',
  'rate_distortion',
  'sample_diversity',
  'ssim',
  'train_judge',
  'usage',
]
