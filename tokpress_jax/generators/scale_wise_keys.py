"""Released weights of VAR and MVAR: their names, and the configs they fit.

Both have the same names and shapes (`var_d16.pth` ... `var_d36.pth` of
FoundationVision/VAR, `mvar-*.pth` of CVL-UESTC/MVAR, whose tensors lie under
`mvar_wo_ddp`). Whether a file is VAR's or MVAR's is not written in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax

from tokpress_jax.errors import UserError
from tokpress_jax.generators.scale_wise import ScaleWiseConfig
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, Transform, dense

SCALES_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
SCALES_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)
# The kernel of a neighbourhood and the first scale that has one.
MVAR_KERNEL, MVAR_FIRST = 7, 8

_row = Transform(lambda x: x[0], lambda x: x[None])
_flat = Transform(lambda x: x.reshape(-1), lambda x: x[None, :, None, None])
_six = Transform(lambda x: x[0, 0], lambda x: x[None, None])


def _block(source: str, target: str) -> tuple[Rule, Rule]:
  source = rf'blocks\.(\d+)\.{source}'
  return dense(source, f'stack/layers/{target}', row=r'[\1]')


_LAYERS = 'params/stack/layers'

RULES = (
  Rule('pos_start', 'params/start/table', _row),
  Rule('pos_1LC', 'params/positions/table', _row),
  Rule(r'lvl_embed\.weight', 'params/levels/table'),
  Rule(r'class_emb\.weight', 'params/class_embed/table/embedding'),
  *dense('word_embed', 'latent_embed'),
  Rule(
    r'blocks\.(\d+)\.attn\.mat_qkv\.weight',
    rf'{_LAYERS}/attn/qkv/kernel[\1]',
    LINEAR,
  ),
  Rule(r'blocks\.(\d+)\.attn\.q_bias', rf'{_LAYERS}/attn/q_bias[\1]'),
  Rule(r'blocks\.(\d+)\.attn\.v_bias', rf'{_LAYERS}/attn/v_bias[\1]'),
  Rule(
    r'blocks\.(\d+)\.attn\.scale_mul_1H11',
    rf'{_LAYERS}/attn/log_scale[\1]',
    _flat,
  ),
  *_block(r'attn\.proj', 'attn/proj'),
  *_block(r'ffn\.fc1', 'mlp/fc1'),
  *_block(r'ffn\.fc2', 'mlp/fc2'),
  *_block(r'ada_lin\.1', 'ada'),
  Rule(r'blocks\.(\d+)\.ada_gss', rf'{_LAYERS}/ada_offset[\1]', _six),
  *dense(r'shared_ada_lin\.1', 'shared_ada'),
  *dense(r'head_nm\.ada_lin\.1', 'head/ada'),
  *dense('head', 'head/logits'),
  # Constants: no key bias, the level of each token, the training mask.
  Rule(r'blocks\.\d+\.attn\.zero_k_bias', None),
  Rule('lvl_1L|attn_bias_for_masking', None),
)


def config_of(
  shapes: Mapping[str, tuple[int, ...]],
  *,
  scales: tuple[int, ...] | None = None,
) -> ScaleWiseConfig:
  """The VAR config that released tensors fit; see also `markovian`.

  Args:
    shapes: released names to shapes.
    scales: sides of the scales; needed unless they are those of the released
      models (680 tokens at 256 pixels, 2,240 at 512).

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said, or asks for
      the scales.
  """
  keymap.require(
    shapes,
    'pos_1LC',
    'word_embed.weight',
    'head.weight',
    'class_emb.weight',
    'blocks.0.attn.scale_mul_1H11',
    'blocks.0.ffn.fc1.weight',
  )
  tokens, width = shapes['pos_1LC'][1:]
  if scales is None:
    known = {sum(s * s for s in k): k for k in (SCALES_256, SCALES_512)}
    if tokens not in known:
      raise UserError(
        f'the weights have {tokens} positions, which are the scales of no '
        'released model (680 or 2240): give the sides of the scales, such as '
        '--scales 1 2 3 4'
      )
    scales = known[tokens]
  return ScaleWiseConfig(
    codebook_size=shapes['head.weight'][0],
    num_classes=shapes['class_emb.weight'][0] - 1,
    width=width,
    depth=len(keymap.indexed(shapes, r'blocks\.(\d+)\.attn\.q_bias')),
    heads=shapes['blocks.0.attn.scale_mul_1H11'][1],
    mlp_ratio=shapes['blocks.0.ffn.fc1.weight'][0] / width,
    scales=scales,
    latent_dim=shapes['word_embed.weight'][1],
    modulation='shared' if 'blocks.0.ada_gss' in shapes else 'block',
  )


def var_config(depth: int, pixels: int = 256) -> ScaleWiseConfig:
  """VAR-d at 256 or 512 pixels: width 64 d, d heads (VAR, section 4)."""
  return ScaleWiseConfig(
    width=64 * depth,
    depth=depth,
    heads=depth,
    drop_path=0.1 * depth / 24,
    scales=SCALES_256 if pixels == 256 else SCALES_512,
    modulation='block' if pixels == 256 else 'shared',
  )


def mvar_config(depth: int) -> ScaleWiseConfig:
  """MVAR-d at 256 pixels."""
  return markovian(var_config(depth))


def markovian(config: ScaleWiseConfig) -> ScaleWiseConfig:
  """The same weights under MVAR's visibility: own scale, windows at the end."""
  late = len(config.scales) - MVAR_FIRST
  kernels = (None,) * MVAR_FIRST + (MVAR_KERNEL,) * late if late > 0 else ()
  return dataclasses.replace(config, sees='own', kernels=kernels)


def mvar_config_of(
  shapes: Mapping[str, tuple[int, ...]],
  *,
  scales: tuple[int, ...] | None = None,
) -> ScaleWiseConfig:
  """The MVAR config that released tensors fit; see `config_of`."""
  return markovian(config_of(shapes, scales=scales))


def expected(config: ScaleWiseConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  return jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )
