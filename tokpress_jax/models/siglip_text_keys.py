"""Released weights of SigLIP's text encoder, with the names of transformers.

A file of all of SigLIP is taken too: the image encoder is left out.

Dimension letters: M tokens of a text, D model features, P projected features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule, dense, norm
from tokpress_jax.models import host_keys
from tokpress_jax.models.clip_text import ClipTextConfig

_LAYER = r'encoder\.layers\.(\d+)\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(r'embeddings\.position_ids', None),
  Rule(r'embeddings\.token_embedding\.weight', 'params/token_embed/embedding'),
  Rule(r'embeddings\.position_embedding\.weight', 'params/positions/table'),
  *host_keys.blocks(_LAYER, host_keys.CLIP_BLOCK),
  *norm(r'final_layer_norm', 'norm'),
  *dense(r'head', 'project'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ClipTextConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: see
      `host_keys.heads_of`.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  table = 'embeddings.token_embedding.weight'
  place = 'embeddings.position_embedding.weight'
  inner = 'encoder.layers.0.mlp.fc1.weight'
  keymap.require(shapes, table, place, inner, 'head.bias', 'head.weight')
  vocabulary, width = shapes[table]
  return _config(
    vocabulary=vocabulary,
    length=shapes[place][0],
    width=width,
    depth=len(keymap.indexed(shapes, _LAYER + r'mlp\.fc1\.weight')),
    mlp_ratio=shapes[inner][0] / width,
    features=shapes['head.weight'][0],
  )


def describe(
  config: ClipTextConfig, description: Mapping[str, Any]
) -> ClipTextConfig:
  """Adds what a config.json says; see `host_keys.described`."""
  return host_keys.described(config, description, 'text_config')


def released_config(name: str) -> ClipTextConfig:
  """A released text encoder: 'b16' or 'so400m-384'."""
  sizes: dict[str, dict[str, Any]] = {
    'b16': {'width': 768, 'depth': 12, 'features': 768},
    'so400m-384': {
      'width': 1152,
      'depth': 27,
      'features': 1152,
      'mlp_ratio': 4304 / 1152,
    },
  }
  if name not in sizes:
    raise UserError(f'There is no SigLIP {name!r}. {did_you_mean(name, sizes)}')
  return _config(vocabulary=32_000, length=64, **sizes[name])


def _config(width: int, **sizes: Any) -> ClipTextConfig:
  """What is the same in all of them."""
  return ClipTextConfig(
    width=width,
    heads=host_keys.heads_of(width),
    activation='gelu_tanh',
    visibility='all',
    pool='last',
    project_bias=True,
    norm_eps=1e-6,
    **sizes,
  )


prepare = host_keys.join_qkv
expected = host_keys.expected_of_texts
