"""Released weights of CLIP's image encoder, with the names of transformers.

A file of all of CLIP is taken too: the text encoder is left out. Without a
projection (in LLaVA's files, say) `pooled` is the normed class token.

Dimension letters: D model features, N positions, P projected features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, PATCH, Rule, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.vit_config import ViTConfig

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

_OWN = r'(?:vision_model\.)?'
_EMBED = rf'{_OWN}embeddings\.'
_LAYER = rf'{_OWN}encoder\.layers\.(\d+)\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(r'text_model\..*', None),
  Rule(r'(text_projection\.weight|logit_scale)', None),
  Rule(rf'{_EMBED}position_ids', None),
  Rule(rf'{_EMBED}class_embedding', 'params/class_token'),
  Rule(rf'{_EMBED}position_embedding\.weight', 'params/positions/table'),
  Rule(rf'{_EMBED}patch_embedding\.weight', 'params/embedding/kernel', PATCH),
  *norm(rf'{_OWN}pre_layrnorm', 'norm_first'),
  *host_keys.blocks(_LAYER, host_keys.CLIP_BLOCK),
  *norm(rf'{_OWN}post_layernorm', 'norm'),
  Rule(r'visual_projection\.weight', 'params/project/kernel', LINEAR),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ViTConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: see
      `host_keys.heads_of`; the activation is OpenAI's, unless a config.json
      says another.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  own = 'vision_model.' if 'vision_model.pre_layrnorm.weight' in shapes else ''
  patch = f'{own}embeddings.patch_embedding.weight'
  place = f'{own}embeddings.position_embedding.weight'
  inner = f'{own}encoder.layers.0.mlp.fc1.weight'
  keymap.require(shapes, patch, place, inner)
  width, channels, side, _ = shapes[patch]
  layer = rf'{own}encoder\.layers\.(\d+)\.mlp\.fc1\.weight'
  return _config(
    image_size=host_keys.image_size_of(shapes[place][0], 1, side),
    patch=side,
    channels=channels,
    width=width,
    depth=len(keymap.indexed(shapes, layer)),
    mlp_ratio=shapes[inner][0] / width,
    features=shapes.get('visual_projection.weight', (0,))[0],
  )


def describe(config: ViTConfig, description: Mapping[str, Any]) -> ViTConfig:
  """Adds what a config.json says; see `host_keys.described`."""
  return host_keys.described(config, description, 'vision_config')


def released_config(name: str) -> ViTConfig:
  """A released image encoder: 'b32', 'b16', 'l14' or 'l14-336'."""
  base = {'width': 768, 'depth': 12, 'features': 512}
  large = {'width': 1024, 'depth': 24, 'features': 768, 'patch': 14}
  sizes: dict[str, dict[str, Any]] = {
    'b32': {**base, 'patch': 32},
    'b16': {**base, 'patch': 16},
    'l14': large,
    'l14-336': {**large, 'image_size': 336},
  }
  if name not in sizes:
    raise UserError(f'There is no CLIP {name!r}. {did_you_mean(name, sizes)}')
  return _config(**sizes[name])


def _config(width: int, **sizes: Any) -> ViTConfig:
  """What is the same in all of OpenAI's."""
  return ViTConfig(
    width=width,
    heads=host_keys.heads_of(width),
    mean=MEAN,
    std=STD,
    classes=0,
    activation='gelu_quick',
    patch_bias=False,
    norm_first=True,
    norm_eps=1e-5,
    **sizes,
  )


prepare = host_keys.join_qkv
expected = host_keys.expected_of_images
