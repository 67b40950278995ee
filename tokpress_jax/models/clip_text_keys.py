"""Released weights of CLIP's text encoder, with Hugging Face's names.

A file of all of CLIP is taken too: the image encoder is left out.

Dimension letters: D model features, P projected features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule
from tokpress_jax.models.clip_text import ClipTextConfig

_LAYER = r'text_model\.encoder\.layers\.(\d+)\.'
_OURS = 'params/stack/layers/'
_HEAD_FEATURES = 64  # In all of CLIP's text encoders.


def _dense(source: str, target: str) -> tuple[Rule, Rule]:
  return (
    Rule(rf'{_LAYER}{source}\.weight', rf'{_OURS}{target}/kernel[\1]', LINEAR),
    Rule(rf'{_LAYER}{source}\.bias', rf'{_OURS}{target}/bias[\1]'),
  )


def _norm(source: str, target: str) -> tuple[Rule, Rule]:
  return (
    Rule(rf'{source}\.weight', rf'{target.format("scale")}'),
    Rule(rf'{source}\.bias', rf'{target.format("bias")}'),
  )


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
  *_dense(r'self_attn\.qkv', 'attn/qkv'),
  *_dense(r'self_attn\.out_proj', 'attn/proj'),
  *_dense(r'mlp\.fc1', 'mlp/fc1'),
  *_dense(r'mlp\.fc2', 'mlp/fc2'),
  *_norm(rf'{_LAYER}layer_norm1', _OURS + r'norm1/{}[\1]'),
  *_norm(rf'{_LAYER}layer_norm2', _OURS + r'norm2/{}[\1]'),
  *_norm(r'text_model\.final_layer_norm', 'params/norm/{}'),
  Rule(r'text_projection\.weight', 'params/project/kernel', LINEAR),
  # The image encoder, and what joins the two.
  Rule(r'text_model\.embeddings\.position_ids', None),
  Rule(r'vision_model\..*', None),
  Rule(r'(visual_projection\.weight|logit_scale)', None),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins queries, keys and values of the text's layers into one `qkv`.

  Args:
    tensors: released names to arrays.
  """
  found = dict(tensors)
  queries = [n for n in found if n.startswith('text_') and '.q_proj.' in n]
  for name in queries:
    parts = [name.replace('q_proj', f'{k}_proj') for k in 'qkv']
    if all(part in found for part in parts):
      joined = np.concatenate([found.pop(part) for part in parts])
      found[name.replace('q_proj', 'qkv')] = joined
  return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ClipTextConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: each has 64
      features, as in all released ones.

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
    heads=max(width // _HEAD_FEATURES, 1),
    mlp_ratio=layers[0][0] / width,
    features=shapes[project][0],
  )


def released_config() -> ClipTextConfig:
  """The text encoder of CLIP ViT-L/14, also at 336 pixels."""
  return ClipTextConfig()


def expected(config: ClipTextConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  codes = jnp.zeros((1, config.length), jnp.int32)
  return jax.eval_shape(config.build().init, jax.random.key(0), codes)
