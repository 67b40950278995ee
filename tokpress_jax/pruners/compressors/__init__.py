"""Learned compressors: few tokens between a vision tower and a language model.

They take tokens [B, N, D] of a grid in raster order, crops as rows of the
batch, and give [B, K, D] at static K; `as_tokens` makes `Tokens` of these.
"""

from tokpress_jax.pruners.compressors.hicom import HIComGlobal, HIComLocal
from tokpress_jax.pruners.compressors.llavolta import Curriculum, LLaVolta
from tokpress_jax.pruners.compressors.m3 import M3, nested_loss, nested_pool
from tokpress_jax.pruners.compressors.mini_monkey import (
  readers,
  scale_compression,
)
from tokpress_jax.pruners.compressors.mqt import MQT, random_prefix
from tokpress_jax.pruners.compressors.parts import (
  Attend,
  Projector,
  as_tokens,
  attend_in_regions,
  grid_regions,
  spans,
)
from tokpress_jax.pruners.compressors.quecc import QueCC
from tokpress_jax.pruners.compressors.slime import SliME, SliMEResampler
from tokpress_jax.pruners.compressors.token_flex import (
  TokenFLEX,
  pooling_matrix,
)
from tokpress_jax.pruners.compressors.token_packer import TokenPacker

__all__ = [
  'M3',
  'MQT',
  'Attend',
  'Curriculum',
  'HIComGlobal',
  'HIComLocal',
  'LLaVolta',
  'Projector',
  'QueCC',
  'SliME',
  'SliMEResampler',
  'TokenFLEX',
  'TokenPacker',
  'as_tokens',
  'attend_in_regions',
  'grid_regions',
  'nested_loss',
  'nested_pool',
  'pooling_matrix',
  'random_prefix',
  'readers',
  'scale_compression',
  'spans',
]
