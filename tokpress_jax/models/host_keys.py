"""What the key maps of hosts share: names of blocks, sizes, a config.json.

Dimension letters: D model features, N positions, p side of a patch.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.io.keymap import Rule, Transform, dense, norm

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# A row [1, 1, D] or a table [1, N, D] without its first axes.
VECTOR = Transform(lambda x: x[0, 0], lambda x: x[None, None])
TABLE = Transform(lambda x: x[0], lambda x: x[None])
# Our names of a block's parts to those of CLIP and SigLIP in transformers.
CLIP_BLOCK = {
  'norm1': 'layer_norm1',
  'attn/qkv': 'self_attn.qkv',
  'attn/proj': 'self_attn.out_proj',
  'norm2': 'layer_norm2',
  'mlp/fc1': 'mlp.fc1',
  'mlp/fc2': 'mlp.fc2',
}
_ACTIVATIONS = {
  'gelu': 'gelu',
  'quick_gelu': 'gelu_quick',
  'gelu_pytorch_tanh': 'gelu_tanh',
  'gelu_new': 'gelu_tanh',
  'relu': 'relu',
}
# Widths of released towers whose heads do not have 64 features.
_HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}


def blocks(layer: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
  """Rules of all layers of a stack.

  Args:
    layer: expression for what leads the names of a layer; its one group is the
      layer's number.
    names: our name of each part to the released one.
  """
  rules: list[Rule] = []
  for ours, theirs in names.items():
    make = norm if ours.startswith('norm') else dense
    source = layer + re.escape(theirs)
    rules += make(source, f'stack/layers/{ours}', row=r'[\1]')
  return tuple(rules)


def join_qkv(
  tensors: Mapping[str, np.ndarray],
  *,
  parts: tuple[str, str, str] = ('q_proj', 'k_proj', 'v_proj'),
  joined: str = 'qkv',
) -> dict[str, np.ndarray]:
  """Joins queries, keys and values of every layer into one tensor.

  Args:
    tensors: released names to arrays.
    parts: what the three are called, between points.
    joined: what takes the place of that.
  """
  found = dict(tensors)
  for name in tensors:
    if f'.{parts[0]}.' not in name:
      continue
    three = [name.replace(f'.{parts[0]}.', f'.{part}.') for part in parts]
    # What is left alone is reported as unused.
    if all(part in found for part in three):
      whole = np.concatenate([found.pop(part) for part in three])
      found[name.replace(f'.{parts[0]}.', f'.{joined}.')] = whole
  return found


def heads_of(width: int) -> int:
  """Heads of a released tower, of 64 features but for a few widths."""
  return _HEADS.get(width, max(width // 64, 1))


def image_size_of(positions: int, special: int, patch: int) -> int:
  """Side of the images, of the number of positions.

  Args:
    positions: N.
    special: those that are not of patches.
    patch: p.

  Raises:
    UserError: if the patches are no square.
  """
  side = math.isqrt(max(positions - special, 0))
  if side**2 + special != positions or not side:
    raise UserError(
      f'The checkpoint has {positions} positions, {special} of them not of '
      'patches: the rest is no square grid, as images here are.'
    )
  return side * patch


def described(
  config: Any, description: Mapping[str, Any], section: str = ''
) -> Any:
  """A config with what a `config.json` of transformers says and no tensor does.

  Args:
    config: as read off the tensors, with heads, activation and norm_eps.
    description: of the file; what it does not say stays.
    section: where a tower's part lies if the file is of two towers.

  Returns:
    The config.

  Raises:
    UserError: if the file is of another width, or has an activation that is
      not here.
  """
  said = description.get(section) or description
  width = said.get('hidden_size', config.width)
  if width != config.width:
    raise UserError(
      f'The config.json beside the weights is of a width of {width}, and the '
      f'tensors of {config.width}. Put the config.json of these weights there, '
      'or none.'
    )
  changes: dict[str, Any] = {}
  if 'num_attention_heads' in said:
    changes['heads'] = int(said['num_attention_heads'])
  if 'layer_norm_eps' in said:
    changes['norm_eps'] = float(said['layer_norm_eps'])
  if (name := said.get('hidden_act')) is not None:
    if name not in _ACTIVATIONS:
      raise UserError(
        f'The config.json beside the weights has the activation {name!r}, '
        f'which is not one of {", ".join(_ACTIVATIONS)}.'
      )
    changes['activation'] = _ACTIVATIONS[name]
  return dataclasses.replace(config, **changes)


def expected_of_images(config: Any) -> Any:
  """The variables that a ViT's weights must fill, as shapes."""
  size = (1, config.image_size, config.image_size, config.channels)
  init = config.build().init
  return jax.eval_shape(init, jax.random.key(0), jnp.zeros(size))


def expected_of_texts(config: Any) -> Any:
  """The variables that a text encoder's weights must fill, as shapes."""
  codes = jnp.zeros((1, config.length), jnp.int32)
  return jax.eval_shape(config.build().init, jax.random.key(0), codes)
