"""Learned compressors: few tokens between a vision tower and a language model.

They take tokens [B, N, D] of a grid in raster order, crops as rows of the
batch, and give [B, K, D] at static K; `as_tokens` makes `Tokens` of these.
"""

from tokpress_jax.pruners.compressors.base import Compressor
from tokpress_jax.pruners.compressors.hicom_global import (
  HIComGlobal,
  HIComGlobalConfig,
)
from tokpress_jax.pruners.compressors.hicom_local import (
  HIComLocal,
  HIComLocalConfig,
)
from tokpress_jax.pruners.compressors.llavolta import Curriculum, LLaVolta
from tokpress_jax.pruners.compressors.m3 import (
  M3,
  M3Projector,
  M3ProjectorConfig,
  nested_loss,
  nested_pool,
)
from tokpress_jax.pruners.compressors.mini_monkey import (
  readers,
  scale_compression,
)
from tokpress_jax.pruners.compressors.mqt import MQT, MQTConfig, random_prefix
from tokpress_jax.pruners.compressors.parts import (
  Attend,
  Projector,
  as_tokens,
  attend_in_regions,
  factor_projector,
  grid_regions,
  spans,
)
from tokpress_jax.pruners.compressors.quecc import QueCC, QueCCConfig
from tokpress_jax.pruners.compressors.slime import (
  SliME,
  SliMEResampler,
  SliMEResamplerConfig,
)
from tokpress_jax.pruners.compressors.token_flex import (
  TokenFLEX,
  TokenFLEXConfig,
  pooling_matrix,
)
from tokpress_jax.pruners.compressors.token_packer import (
  TokenPacker,
  TokenPackerConfig,
)

__all__ = [
  'M3',
  'MQT',
  'Attend',
  'Compressor',
  'Curriculum',
  'HIComGlobal',
  'HIComGlobalConfig',
  'HIComLocal',
  'HIComLocalConfig',
  'LLaVolta',
  'M3Projector',
  'M3ProjectorConfig',
  'MQTConfig',
  'Projector',
  'QueCC',
  'QueCCConfig',
  'SliME',
  'SliMEResampler',
  'SliMEResamplerConfig',
  'TokenFLEX',
  'TokenFLEXConfig',
  'TokenPacker',
  'TokenPackerConfig',
  'as_tokens',
  'attend_in_regions',
  'factor_projector',
  'grid_regions',
  'nested_loss',
  'nested_pool',
  'pooling_matrix',
  'random_prefix',
  'readers',
  'scale_compression',
  'spans',
]
