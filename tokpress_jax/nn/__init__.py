"""Layers that every family is made of."""

from tokpress_jax.nn.attention import (
  Attention,
  AttentionConfig,
  Cache,
  block_causal_mask,
  dot_product_attention,
)
from tokpress_jax.nn.block import Activation, Block, BlockConfig, Mlp
from tokpress_jax.nn.conv import (
  Conv,
  ConvConfig,
  ConvDecoder,
  ConvEncoder,
  conv2d,
)
from tokpress_jax.nn.norms import (
  GroupNorm,
  LayerNorm,
  RMSNorm,
  l2_normalize,
  make_norm,
  modulate,
)
from tokpress_jax.nn.patches import check_patch, patchify, unpatchify
from tokpress_jax.nn.positions import (
  LearnedPositions,
  Rotation,
  grid_positions,
  rotate,
  rotation,
  sincos,
)
from tokpress_jax.nn.stack import Stack, StackConfig, unstack
from tokpress_jax.nn.ustack import UStack

__all__ = [
  'Activation',
  'Attention',
  'AttentionConfig',
  'Block',
  'BlockConfig',
  'Cache',
  'Conv',
  'ConvConfig',
  'ConvDecoder',
  'ConvEncoder',
  'GroupNorm',
  'LayerNorm',
  'LearnedPositions',
  'Mlp',
  'RMSNorm',
  'Rotation',
  'Stack',
  'StackConfig',
  'UStack',
  'block_causal_mask',
  'check_patch',
  'conv2d',
  'dot_product_attention',
  'grid_positions',
  'l2_normalize',
  'make_norm',
  'modulate',
  'patchify',
  'rotate',
  'rotation',
  'sincos',
  'unpatchify',
  'unstack',
]
