"""Released weights of ViT and DeiT, with the names of timm.

They are those of DeiT's official files too, and of MAE's encoder after
fine-tuning with a class token.

Dimension letters: D model features, N positions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import PATCH, Rule, dense, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.host_keys import TABLE, VECTOR
from tokpress_jax.models.vit_config import ViTConfig

_LAYER = r'blocks\.(\d+)\.'
_BLOCK = {
  'norm1': 'norm1',
  'attn/qkv': 'attn.qkv',
  'attn/proj': 'attn.proj',
  'norm2': 'norm2',
  'mlp/fc1': 'mlp.fc1',
  'mlp/fc2': 'mlp.fc2',
}

RULES = (
  Rule(r'cls_token', 'params/class_token', VECTOR),
  Rule(r'dist_token', 'params/distillation_token', VECTOR),
  Rule(r'pos_embed', 'params/positions/table', TABLE),
  Rule(r'patch_embed\.proj\.weight', 'params/embedding/kernel', PATCH),
  Rule(r'patch_embed\.proj\.bias', 'params/embedding/bias'),
  *host_keys.blocks(_LAYER, _BLOCK),
  *norm(r'norm', 'norm'),
  *dense(r'head', 'head'),
  *dense(r'head_dist', 'distillation_head'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: see
      `host_keys.heads_of`; neither do the pixels' mean and deviation: a half,
      or ImageNet's with a distillation token, unless a config.json says more.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  patch, inner = 'patch_embed.proj.weight', 'blocks.0.mlp.fc1.weight'
  keymap.require(shapes, patch, 'pos_embed', 'cls_token', inner)
  width, channels, side, _ = shapes[patch]
  distilled = 'dist_token' in shapes
  places, special = shapes['pos_embed'][1], 1 + distilled
  return ViTConfig(
    image_size=host_keys.image_size_of(places, special, side),
    patch=side,
    channels=channels,
    mean=host_keys.IMAGENET_MEAN if distilled else (0.5,),
    std=host_keys.IMAGENET_STD if distilled else (0.5,),
    classes=shapes['head.weight'][0] if 'head.weight' in shapes else 0,
    width=width,
    depth=len(keymap.indexed(shapes, _LAYER + r'norm1\.weight')),
    heads=host_keys.heads_of(width),
    mlp_ratio=shapes[inner][0] / width,
    distillation_token=distilled,
    pool='distilled' if 'head_dist.weight' in shapes else 'class',
    norm_eps=1e-6,
  )


def describe(config: ViTConfig, description: Mapping[str, Any]) -> ViTConfig:
  """Adds the pixels' mean and deviation that a config.json of timm says."""
  said = description.get('pretrained_cfg') or {}
  found: dict[str, Any] = {
    name: tuple(map(float, said[name]))
    for name in ('mean', 'std')
    if name in said
  }
  return dataclasses.replace(config, **found)


def released_config() -> ViTConfig:
  """ViT-B/16 at 224 pixels, trained with AugReg."""
  return ViTConfig()


expected = host_keys.expected_of_images
