"""Tokenizers: how many tokens does this image need, and which?"""

from tokpress_jax.tokenizers.base import (
  Reconstruction,
  Tokenizer,
  TokenizerConfig,
)
from tokpress_jax.tokenizers.lengths import (
  Fixed,
  Policy,
  Prefix,
  legal_length,
  prefix_mask,
  round_down,
  sample_lengths,
)
from tokpress_jax.tokenizers.multi_scale import (
  MultiScaleConfig,
  MultiScaleTokenizer,
)
from tokpress_jax.tokenizers.one_d import OneDConfig, OneDTokenizer

__all__ = [
  'Fixed',
  'MultiScaleConfig',
  'MultiScaleTokenizer',
  'OneDConfig',
  'OneDTokenizer',
  'Policy',
  'Prefix',
  'Reconstruction',
  'Tokenizer',
  'TokenizerConfig',
  'legal_length',
  'prefix_mask',
  'round_down',
  'sample_lengths',
]
