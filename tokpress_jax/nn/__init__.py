"""Layers that every family is made of."""

from tokpress_jax.nn.attention import (
  Attention,
  AttentionConfig,
  Cache,
  Implementation,
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
from tokpress_jax.nn.cross import CrossAttention, CrossBlock, CrossStack
from tokpress_jax.nn.joint import JointBlock, JointStack
from tokpress_jax.nn.norms import (
  GroupNorm,
  LayerNorm,
  ModulatedNorm,
  RMSNorm,
  l2_normalize,
  make_norm,
  modulate,
)
from tokpress_jax.nn.patches import (
  check_patch,
  patchify,
  patchify_video,
  unpatchify,
  unpatchify_video,
)
from tokpress_jax.nn.positions import (
  LearnedPositions,
  Rotation,
  grid_positions,
  rotate,
  rotation,
  sectioned_rotation,
  sincos,
  sincos_rates,
  split_sections,
  time_codes,
  turn,
)
from tokpress_jax.nn.stack import (
  Stack,
  StackConfig,
  over_layers,
  take_layer,
  unstack,
)
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
  'CrossAttention',
  'CrossBlock',
  'CrossStack',
  'GroupNorm',
  'Implementation',
  'JointBlock',
  'JointStack',
  'LayerNorm',
  'LearnedPositions',
  'Mlp',
  'ModulatedNorm',
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
  'over_layers',
  'patchify',
  'patchify_video',
  'rotate',
  'rotation',
  'sectioned_rotation',
  'sincos',
  'sincos_rates',
  'split_sections',
  'take_layer',
  'time_codes',
  'turn',
  'unpatchify',
  'unpatchify_video',
  'unstack',
]
