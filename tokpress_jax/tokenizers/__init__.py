"""Tokenizers: how many tokens does this image need, and which?"""

from tokpress_jax.tokenizers.alit import ALITConfig, ALITTokenizer
from tokpress_jax.tokenizers.autoencoder_kl import (
  AutoencoderKL,
  AutoencoderKLConfig,
)
from tokpress_jax.tokenizers.base import (
  Reconstruction,
  Tokenizer,
  TokenizerConfig,
)
from tokpress_jax.tokenizers.elastictok import (
  ElasticTok,
  ElasticTokConfig,
  kept_tokens,
)
from tokpress_jax.tokenizers.error_search import ErrorSearch
from tokpress_jax.tokenizers.flextok import (
  FlexTokConfig,
  FlexTokTokenizer,
)
from tokpress_jax.tokenizers.karl import KARLConfig, KARLTokenizer
from tokpress_jax.tokenizers.lengths import (
  Coded,
  Fixed,
  Halting,
  Policy,
  Prefix,
  Quality,
  legal_length,
  minus_l1,
  minus_lpips,
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
from tokpress_jax.tokenizers.packing import (
  Packed,
  bucket,
  pack,
  shorten,
  unpack,
  within_images,
)
from tokpress_jax.tokenizers.pyramid import PyramidConfig, PyramidTokenizer
from tokpress_jax.tokenizers.titok import TiTokConfig, TiTokTokenizer
from tokpress_jax.tokenizers.towers import TOWERS, TowerConfig
from tokpress_jax.tokenizers.var import VARTokenizer, VARTokenizerConfig

__all__ = [
  'TOWERS',
  'ALITConfig',
  'ALITTokenizer',
  'AutoencoderKL',
  'AutoencoderKLConfig',
  'Coded',
  'ElasticTok',
  'ElasticTokConfig',
  'ErrorSearch',
  'Fixed',
  'FlexTokConfig',
  'FlexTokTokenizer',
  'Halting',
  'KARLConfig',
  'KARLTokenizer',
  'MaskGITVQGAN',
  'MaskGITVQGANConfig',
  'MultiScaleConfig',
  'MultiScaleTokenizer',
  'OneDConfig',
  'OneDTokenizer',
  'Packed',
  'Policy',
  'Prefix',
  'PyramidConfig',
  'PyramidTokenizer',
  'Quality',
  'Reconstruction',
  'TiTokConfig',
  'TiTokTokenizer',
  'Tokenizer',
  'TokenizerConfig',
  'TowerConfig',
  'VARTokenizer',
  'VARTokenizerConfig',
  'bucket',
  'kept_tokens',
  'legal_length',
  'minus_l1',
  'minus_lpips',
  'pack',
  'prefix_mask',
  'round_down',
  'sample_lengths',
  'shorten',
  'unpack',
  'within_images',
]
