"""Numbers that say how good images, codes and samples are."""

from tokpress_jax.metrics.codes import ScaleCodes, fit_scales, scale_codes
from tokpress_jax.metrics.features import (
  Collector,
  FeatureExtractor,
  ImageFeatures,
)
from tokpress_jax.metrics.frechet import (
  FeatureStats,
  Moments,
  frechet_distance,
)
from tokpress_jax.metrics.generation import (
  METRICS,
  InceptionScore,
  collect,
  compare,
  inception_score,
)
from tokpress_jax.metrics.images import psnr, ssim
from tokpress_jax.metrics.inception import (
  Inception,
  InceptionFeatures,
  InceptionWeights,
  load_inception,
)
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
from tokpress_jax.metrics.pixels import RESIZES, preprocess
from tokpress_jax.metrics.rate import (
  RatePoint,
  bits_per_pixel,
  rate_distortion,
)
from tokpress_jax.quantize.base import perplexity, usage

__all__ = [
  'METRICS',
  'RESIZES',
  'Collector',
  'FeatureExtractor',
  'FeatureStats',
  'ImageFeatures',
  'Inception',
  'InceptionFeatures',
  'InceptionScore',
  'InceptionWeights',
  'Judge',
  'JudgeConfig',
  'Moments',
  'PatchCoding',
  'PrecisionRecall',
  'RatePoint',
  'ScaleCodes',
  'bits_per_pixel',
  'class_agreement',
  'class_spread',
  'collect',
  'compare',
  'distances',
  'fit_kmeans',
  'fit_scales',
  'frechet_distance',
  'inception_score',
  'load_inception',
  'nearest_distance',
  'patch_coding',
  'perplexity',
  'precision_recall',
  'preprocess',
  'psnr',
  'rate_distortion',
  'sample_diversity',
  'scale_codes',
  'ssim',
  'train_judge',
  'usage',
]
