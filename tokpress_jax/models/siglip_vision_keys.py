"""Released weights of SigLIP's image encoder, with the names of transformers.

A file of all of SigLIP is taken too: the text encoder is left out.

Dimension letters: D model features, N positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import PATCH, Rule, dense, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.host_keys import VECTOR
from tokpress_jax.models.vit_config import ViTConfig

_LAYER = r'encoder\.layers\.(\d+)\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(r'embeddings\.position_ids', None),
  Rule(r'embeddings\.position_embedding\.weight', 'params/positions/table'),
  Rule(
    r'embeddings\.patch_embedding\.weight', 'params/embedding/kernel', PATCH
  ),
  Rule(r'embeddings\.patch_embedding\.bias', 'params/embedding/bias'),
  *host_keys.blocks(_LAYER, host_keys.CLIP_BLOCK),
  *norm(r'post_layernorm', 'norm'),
  Rule(r'head\.probe', 'params/pool/probe', VECTOR),
  *dense(r'head\.attention\.query', 'pool/attn/query'),
  *dense(r'head\.attention\.keys', 'pool/attn/keys'),
  *dense(r'head\.attention\.out_proj', 'pool/attn/proj'),
  *norm(r'head\.layernorm', 'pool/norm'),
  *dense(r'head\.mlp\.fc1', 'pool/mlp/fc1'),
  *dense(r'head\.mlp\.fc2', 'pool/mlp/fc2'),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins `qkv` of every layer; cuts that of the head, whose query is its own.

  Args:
    tensors: released names to arrays.
  """
  found = host_keys.join_qkv(tensors)
  for kind in ('weight', 'bias'):
    whole = found.pop(f'head.attention.in_proj_{kind}', None)
    if whole is not None:
      third = len(whole) // 3
      found[f'head.attention.query.{kind}'] = whole[:third]
      found[f'head.attention.keys.{kind}'] = whole[third:]
  return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: see
      `host_keys.heads_of`. Neither do pixels beyond the last whole patch, but
      in the released one that has some.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  patch = 'embeddings.patch_embedding.weight'
  place = 'embeddings.position_embedding.weight'
  inner = 'encoder.layers.0.mlp.fc1.weight'
  keymap.require(shapes, patch, place, inner, 'head.probe')
  width, channels, side, _ = shapes[patch]
  size = host_keys.image_size_of(shapes[place][0], 0, side)
  return _config(
    image_size=384 if (size, side) == (378, 14) else size,
    patch=side,
    channels=channels,
    width=width,
    depth=len(keymap.indexed(shapes, _LAYER + r'mlp\.fc1\.weight')),
    mlp_ratio=shapes[inner][0] / width,
  )


def describe(config: ViTConfig, description: Mapping[str, Any]) -> ViTConfig:
  """Adds what a config.json says; see `host_keys.described`."""
  return host_keys.described(config, description, 'vision_config')


def released_config(name: str) -> ViTConfig:
  """A released image encoder: 'b16' at 224 pixels or 'so400m-384'."""
  sizes: dict[str, dict[str, Any]] = {
    'b16': {'width': 768, 'depth': 12},
    'so400m-384': {
      'width': 1152,
      'depth': 27,
      'patch': 14,
      'image_size': 384,
      'mlp_ratio': 4304 / 1152,
    },
  }
  if name not in sizes:
    raise UserError(f'There is no SigLIP {name!r}. {did_you_mean(name, sizes)}')
  return _config(**sizes[name])


def _config(width: int, **sizes: Any) -> ViTConfig:
  """What is the same in all of them."""
  return ViTConfig(
    width=width,
    heads=host_keys.heads_of(width),
    remainder='drop',
    classes=0,
    activation='gelu_tanh',
    class_token=False,
    pool='attention',
    norm_eps=1e-6,
    **sizes,
  )


expected = host_keys.expected_of_images
