"""Released weights of CLIP's text encoder, with Hugging Face's names.

A file of all of CLIP is taken too: the image encoder is left out.

Dimension letters: D model features, P projected features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.clip_text import ClipTextConfig

_LAYER = r'text_model\.encoder\.layers\.(\d+)\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(
    r'text_model\.embeddings\.token_embedding\.weight',
    'params/token_embed/embedding',
  ),
  Rule(
    r'text_model\.embeddings\.position_embedding\.weight',
    'params/positions/table',
  ),
  *host_keys.blocks(_LAYER, host_keys.CLIP_BLOCK),
  *norm(r'text_model\.final_layer_norm', 'norm'),
  Rule(r'text_projection\.weight', 'params/project/kernel', LINEAR),
  # The image encoder, and what joins the two.
  Rule(r'text_model\.embeddings\.position_ids', None),
  Rule(r'vision_model\..*', None),
  Rule(r'(visual_projection\.weight|logit_scale)', None),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ClipTextConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: each has 64
      features, as in all released ones, unless a config.json says more.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  table = 'text_model.embeddings.token_embedding.weight'
  place = 'text_model.embeddings.position_embedding.weight'
  inner = 'text_model.encoder.layers.{}.mlp.fc1.weight'
  project = 'text_projection.weight'
  keymap.require(shapes, table, place, inner.format(0), project)
  vocabulary, width = shapes[table]
  layers = keymap.indexed(shapes, _LAYER + r'mlp\.fc1\.weight')
  return ClipTextConfig(
    vocabulary=vocabulary,
    length=shapes[place][0],
    width=width,
    depth=len(layers),
    heads=host_keys.heads_of(width),
    mlp_ratio=layers[0][0] / width,
    features=shapes[project][0],
  )


def describe(
  config: ClipTextConfig, description: Mapping[str, Any]
) -> ClipTextConfig:
  """Adds what a config.json says; see `host_keys.described`."""
  return host_keys.described(config, description, 'text_config')


def released_config(width: int = 768) -> ClipTextConfig:
  """The text encoder of CLIP ViT-L/14, also at 336 pixels; 512: of ViT-B.

  Args:
    width: D, and P.
  """
  return ClipTextConfig(
    width=width, heads=host_keys.heads_of(width), features=width
  )


prepare = host_keys.join_qkv
expected = host_keys.expected_of_texts
