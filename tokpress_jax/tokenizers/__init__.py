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
from tokpress_jax.tokenizers.maskgit_vqgan import (
  MaskGITVQGAN,
  MaskGITVQGANConfig,
)
from tokpress_jax.tokenizers.multi_scale import (
  MultiScaleConfig,
  MultiScaleTokenizer,
)
from tokpress_jax.tokenizers.one_d import OneDConfig, OneDTokenizer
from tokpress_jax.tokenizers.pyramid import PyramidConfig, PyramidTokenizer
from tokpress_jax.tokenizers.titok import (
  TOWERS,
  TiTokConfig,
  TiTokTokenizer,
  TowerConfig,
)
from tokpress_jax.tokenizers.var import VARTokenizer, VARTokenizerConfig

__all__ = [
  'TOWERS',
  'Fixed',
  'MaskGITVQGAN',
  'MaskGITVQGANConfig',
  'MultiScaleConfig',
  'MultiScaleTokenizer',
  'OneDConfig',
  'OneDTokenizer',
  'Policy',
  'Prefix',
  'PyramidConfig',
  'PyramidTokenizer',
  'Reconstruction',
  'TiTokConfig',
  'TiTokTokenizer',
  'Tokenizer',
  'TokenizerConfig',
  'TowerConfig',
  'VARTokenizer',
  'VARTokenizerConfig',
  'legal_length',
  'prefix_mask',
  'round_down',
  'sample_lengths',
]
