"""Quantisers: a pure function and a thin module each."""

from tokpress_jax.quantize.base import (
  CodebookStats,
  Quantized,
  QuantizerConfig,
  count_codes,
  perplexity,
  straight_through,
  usage,
)
from tokpress_jax.quantize.multi_scale import MultiScaleVQ, MultiScaleVQConfig
from tokpress_jax.quantize.vq import VectorQuantizer, VQConfig, vq

__all__ = [
  'CodebookStats',
  'MultiScaleVQ',
  'MultiScaleVQConfig',
  'Quantized',
  'QuantizerConfig',
  'VQConfig',
  'VectorQuantizer',
  'count_codes',
  'perplexity',
  'straight_through',
  'usage',
  'vq',
]
