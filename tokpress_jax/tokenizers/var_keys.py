"""Released weights of VAR's tokenizer: their names, and the config they fit.

The file `vae_ch160v4096z32.pth` of FoundationVision/VAR; MVAR and STAR use it
too. It says nothing of scales or image size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import quantize
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, SAME, Rule, Transform
from tokpress_jax.tokenizers.var import VARTokenizerConfig

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)

# A 1x1 convolution of torch as a dense kernel.
_POINT = Transform(lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None])


def _layer(
  source: str, target: str, kind: str = 'kernel', transform: Transform = SAME
) -> tuple[Rule, Rule]:
  """Weight and bias of one layer; `kind` is what we call the weight."""
  return (
    Rule(rf'{source}\.weight', rf'params/{target}/{kind}', transform),
    Rule(rf'{source}\.bias', rf'params/{target}/bias'),
  )


def _conv(source: str, target: str) -> tuple[Rule, Rule]:
  return _layer(source, target, 'kernel', CONV)


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
  return _layer(source, target, 'scale')


_NET = r'(encoder|decoder)'
_LEVEL = rf'{_NET}\.(?:down|up)\.(\d+)'
_BLOCK, _ATTN = rf'{_LEVEL}\.block\.(\d+)', rf'{_LEVEL}\.attn\.(\d+)'
_MID = rf'{_NET}\.mid\.(block_[12])'

RULES = (
  Rule(r'quantize\.embedding\.weight', 'params/quantizer/vq/codebook'),
  *_conv(r'quantize\.quant_resi\.qresi_ls\.(\d+)', r'quantizer/phi_\1'),
  Rule(r'quantize\.ema_vocab_hit_SV', None),  # a usage statistic
  *_conv('quant_conv', 'pre_quant'),
  *_conv('post_quant_conv', 'post_quant'),
  *_conv(rf'{_NET}\.(conv_in|conv_out)', r'\1/\2'),
  *_norm(rf'{_NET}\.norm_out', r'\1/norm_out'),
  *_norm(rf'{_BLOCK}\.(norm[12])', r'\1/level_\2/block_\3/\4'),
  *_conv(rf'{_BLOCK}\.(conv[12])', r'\1/level_\2/block_\3/\4'),
  *_conv(rf'{_BLOCK}\.nin_shortcut', r'\1/level_\2/block_\3/shortcut'),
  *_norm(rf'{_ATTN}\.norm', r'\1/level_\2/attn_\3/norm'),
  *_layer(rf'{_ATTN}\.qkv', r'\1/level_\2/attn_\3/qkv', transform=_POINT),
  *_layer(rf'{_ATTN}\.proj_out', r'\1/level_\2/attn_\3/proj', transform=_POINT),
  *_conv(rf'{_LEVEL}\.downsample\.conv', r'\1/level_\2/down'),
  *_conv(rf'{_LEVEL}\.upsample\.conv', r'\1/level_\2/up'),
  *_norm(rf'{_MID}\.(norm[12])', r'\1/mid/\2/\3'),
  *_conv(rf'{_MID}\.(conv[12])', r'\1/mid/\2/\3'),
  *_norm(rf'{_NET}\.mid\.attn_1\.norm', r'\1/mid/attn/norm'),
  *_layer(rf'{_NET}\.mid\.attn_1\.qkv', r'\1/mid/attn/qkv', transform=_POINT),
  *_layer(
    rf'{_NET}\.mid\.attn_1\.proj_out', r'\1/mid/attn/proj', transform=_POINT
  ),
)


def config_of(
  shapes: Mapping[str, tuple[int, ...]],
  *,
  scales: tuple[int, ...] = SCALES_256,
) -> VARTokenizerConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.
    scales: sides of the scales, which the weights do not know.

  Returns:
    The config; images are as large as the last scale needs.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    'quantize.embedding.weight',
    'encoder.conv_in.weight',
    'decoder.conv_out.weight',
  )
  width = shapes['encoder.conv_in.weight'][0]
  codes, features = shapes['quantize.embedding.weight']
  conv = r'encoder\.down\.(\d+)\.block\.0\.conv1\.weight'
  outputs = keymap.indexed(shapes, conv)
  blocks = keymap.indexed(
    shapes, r'encoder\.down\.0\.block\.(\d+)\.conv1\.weight'
  )
  phi = keymap.indexed(shapes, r'quantize\.quant_resi\.qresi_ls\.(\d+)\.weight')
  patch = 2 ** (len(outputs) - 1)
  return VARTokenizerConfig(
    image_size=scales[-1] * patch,
    channels=shapes['decoder.conv_out.weight'][0],
    patch=patch,
    width=width,
    multipliers=tuple(s[0] // width for s in outputs),
    blocks=len(blocks),
    attention='encoder.mid.attn_1.qkv.weight' in shapes,
    quantizer=quantize.MultiScaleVQConfig(
      vq=quantize.VQConfig(codebook_size=codes, dim=features),
      scales=scales,
      phi=len(phi),
    ),
  )


def released_config(pixels: int = 256) -> VARTokenizerConfig:
  """The released tokenizer at 256 or 512 pixels; the weights are the same."""
  scales = SCALES_256 if pixels == 256 else SCALES_512
  quantizer = quantize.MultiScaleVQConfig(
    vq=quantize.VQConfig(codebook_size=4096, dim=32), scales=scales
  )
  return VARTokenizerConfig(image_size=pixels, quantizer=quantizer)


def expected(config: VARTokenizerConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
