"""Released weights of ViT and DeiT, with the names of transformers.

A ViT without a classifier is taken too; its pooler (a linear layer that
pre-training read) is left out, and `pooled` is the class token.

Dimension letters: D model features, N positions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import PATCH, Rule, dense, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.host_keys import TABLE, VECTOR
from tokpress_jax.models.vit_config import ViTConfig

_OWN = r'(?:vit\.|deit\.)?'
_EMBED = rf'{_OWN}embeddings\.'
_LAYER = rf'{_OWN}encoder\.layer\.(\d+)\.'
_BLOCK = {
  'norm1': 'layernorm_before',
  'attn/qkv': 'attention.attention.qkv',
  'attn/proj': 'attention.output.dense',
  'norm2': 'layernorm_after',
  'mlp/fc1': 'intermediate.dense',
  'mlp/fc2': 'output.dense',
}

# Of the names that `prepare` gives.
RULES = (
  Rule(rf'{_EMBED}cls_token', 'params/class_token', VECTOR),
  Rule(rf'{_EMBED}distillation_token', 'params/distillation_token', VECTOR),
  Rule(rf'{_EMBED}position_embeddings', 'params/positions/table', TABLE),
  Rule(
    rf'{_EMBED}patch_embeddings\.projection\.weight',
    'params/embedding/kernel',
    PATCH,
  ),
  Rule(rf'{_EMBED}patch_embeddings\.projection\.bias', 'params/embedding/bias'),
  *host_keys.blocks(_LAYER, _BLOCK),
  *norm(rf'{_OWN}layernorm', 'norm'),
  *dense(r'(?:cls_)?classifier', 'head'),
  *dense(r'distillation_classifier', 'distillation_head'),
  Rule(rf'{_OWN}pooler\..*', None),
  Rule(rf'{_EMBED}mask_token', None),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins queries, keys and values of every layer into one `qkv`.

  Args:
    tensors: released names to arrays.
  """
  return host_keys.join_qkv(tensors, parts=('query', 'key', 'value'))


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads and the norms' epsilon do not show
      in them: they are those of the released ones, unless a config.json says
      more. Neither do the pixels' mean and deviation: a half, or ImageNet's
      for a DeiT with its distillation token (a released name knows).

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  names = ('vit.layernorm.weight', 'deit.layernorm.weight')
  found = [n for n in names if n in shapes]
  own = re.sub(r'layernorm\.weight$', '', found[0]) if found else ''
  patch = f'{own}embeddings.patch_embeddings.projection.weight'
  place = f'{own}embeddings.position_embeddings'
  inner = f'{own}encoder.layer.0.intermediate.dense.weight'
  keymap.require(shapes, patch, place, inner)
  width, channels, side, _ = shapes[patch]
  distilled = f'{own}embeddings.distillation_token' in shapes
  both = 'distillation_classifier.weight' in shapes
  head = 'cls_classifier.weight' if both else 'classifier.weight'
  layer = re.escape(f'{own}encoder.layer.') + r'(\d+)\.layernorm_before\.weight'
  pixels: dict[str, Any] = {}
  if distilled:
    pixels = {
      'mean': host_keys.IMAGENET_MEAN,
      'std': host_keys.IMAGENET_STD,
    }
  return ViTConfig(
    image_size=host_keys.image_size_of(shapes[place][1], 1 + distilled, side),
    patch=side,
    channels=channels,
    classes=shapes[head][0] if head in shapes else 0,
    width=width,
    depth=len(keymap.indexed(shapes, layer)),
    heads=host_keys.heads_of(width),
    mlp_ratio=shapes[inner][0] / width,
    distillation_token=distilled,
    pool='distilled' if both else 'class',
    norm_eps=1e-12,
    **pixels,
  )


def describe(config: ViTConfig, description: Mapping[str, Any]) -> ViTConfig:
  """Adds what a config.json says; see `host_keys.described`."""
  return host_keys.described(config, description)


def released_config(width: int, form: str = 'vit') -> ViTConfig:
  """A released ViT/16 or DeiT/16 at 224 pixels.

  Args:
    width: D: 192, 384 or 768.
    form: 'vit', 'deit', or 'distilled', a DeiT with its distillation token.
  """
  distilled = form == 'distilled'
  half = form == 'vit'
  return ViTConfig(
    width=width,
    heads=host_keys.heads_of(width),
    mean=(0.5,) if half else host_keys.IMAGENET_MEAN,
    std=(0.5,) if half else host_keys.IMAGENET_STD,
    distillation_token=distilled,
    pool='distilled' if distilled else 'class',
    norm_eps=1e-12,
  )


expected = host_keys.expected_of_images
