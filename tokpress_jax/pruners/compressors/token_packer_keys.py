"""Released weights of TokenPacker's projector."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, norm
from tokpress_jax.pruners.compressors import compressor_keys
from tokpress_jax.pruners.compressors.token_packer import TokenPackerConfig

_OWN = r'mm_projector\.'

# Of the names that `prepare` gives.
RULES = (
  Rule(rf'{_OWN}q_proj_1\.weight', 'params/q/kernel', LINEAR),
  *compressor_keys.mlp(rf'{_OWN}k_proj_1', 'k'),
  *compressor_keys.mlp(rf'{_OWN}v_proj_1', 'v'),
  *norm(rf'{_OWN}ln_q_1', 'norm_q'),
  *norm(rf'{_OWN}ln_k_1', 'norm_k'),
  *norm(rf'{_OWN}ln_v_1', 'norm_v'),
  *compressor_keys.attention(rf'{_OWN}clip_attn', 'attn'),
  *compressor_keys.mlp(rf'{_OWN}mlp', 'mlp'),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> Any:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes, in which neither the grid shows nor the
      side of a window: it is 2 (144 tokens) unless a config.json says another.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  query, joined = (
    'mm_projector.q_proj_1.weight',
    'mm_projector.k_proj_1.0.weight',
  )
  out = 'mm_projector.mlp.0.weight'
  keymap.require(shapes, query, joined, out)
  width = shapes[query][1]
  return TokenPackerConfig(
    width=width,
    joined=shapes[joined][1],
    heads=compressor_keys.heads_of(width),
    out=shapes[out][0],
  )


def describe(config: Any, description: Mapping[str, Any]) -> Any:
  """Adds the side of a window, if a config.json says it."""
  stride = description.get('scale_factor', config.stride)
  return dataclasses.replace(config, stride=int(stride))


def released_config(stride: int, out: int) -> Any:
  """A released projector: s x s tokens in one, for a model of F features."""
  return TokenPackerConfig(stride=stride, out=out)


prepare = compressor_keys.prepare
expected = compressor_keys.expected
