"""Quantisers: a pure function and a thin module each."""

from tokpress_jax.quantize.base import (
  CodebookStats,
  Quantized,
  QuantizerConfig,
  count_codes,
  normalize,
  perplexity,
  straight_through,
  usage,
)
from tokpress_jax.quantize.fsq import LEVELS as FSQ_LEVELS
from tokpress_jax.quantize.fsq import FiniteScalarQuantizer, FSQConfig, fsq
from tokpress_jax.quantize.gaussian import (
  ContinuousConfig,
  GaussianBottleneck,
  GaussianConfig,
  gaussian,
)
from tokpress_jax.quantize.lfq import LFQConfig, LookupFreeQuantizer, lfq
from tokpress_jax.quantize.multi_scale import MultiScaleVQ, MultiScaleVQConfig
from tokpress_jax.quantize.plain import PlainBottleneck, PlainConfig
from tokpress_jax.quantize.residual import (
  ResidualVQ,
  ResidualVQConfig,
  residual_vq,
  sample_keep,
)
from tokpress_jax.quantize.vq import (
  VectorQuantizer,
  VQConfig,
  nearest,
  vq,
)

__all__ = [
  'FSQ_LEVELS',
  'CodebookStats',
  'ContinuousConfig',
  'FSQConfig',
  'FiniteScalarQuantizer',
  'GaussianBottleneck',
  'GaussianConfig',
  'LFQConfig',
  'LookupFreeQuantizer',
  'MultiScaleVQ',
  'MultiScaleVQConfig',
  'PlainBottleneck',
  'PlainConfig',
  'Quantized',
  'QuantizerConfig',
  'ResidualVQ',
  'ResidualVQConfig',
  'VQConfig',
  'VectorQuantizer',
  'count_codes',
  'fsq',
  'gaussian',
  'lfq',
  'nearest',
  'normalize',
  'perplexity',
  'residual_vq',
  'sample_keep',
  'straight_through',
  'usage',
  'vq',
]
