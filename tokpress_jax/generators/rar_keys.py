"""Released weights of RAR, with the official names.

The official model keeps one vocabulary (V codes, a mask, K classes, no class)
and tables longer than any row. What nothing reads is left out: the mask, the
rows past the end, the targets of the start and the class, and the last time,
whose input predicts nothing.

Dimension letters: V codes, K classes, N tokens, D model features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tokpress_jax.generators.rar import PREFIX, RARConfig
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule, Transform

_TABLE, _HEAD = 'embeddings.weight', 'lm_head.weight'
_PLACE, _TARGET = 'pos_embed', 'target_aware_pos_embed'
_TIME = 'timesteps_embeddings'
# The official position tables have so many rows more than tokens.
_ROOM = 1024

# Theirs are shift, scale and gate of the attention, then of the MLP; ours are
# `nn.block.MODULATION`.
_OURS = np.array([2, 5, 1, 4, 0, 3])


def _six(index: np.ndarray) -> Any:
  """Reorders six equal parts of the first axis."""
  return lambda x: x.reshape(6, -1, *x.shape[1:])[index].reshape(x.shape)


MODULATION = Transform(_six(_OURS), _six(np.argsort(_OURS)))
_row = Transform(lambda x: x[0], lambda x: x[None])


def _norm(name: str, target: str) -> tuple[Rule, Rule]:
  source = rf'blocks\.(\d+)\.{name}'
  return keymap.norm(source, f'stack/layers/{target}', r'[\1]')


def _dense(
  name: str, target: str, change: Transform = keymap.SAME
) -> tuple[Rule, Rule]:
  source = rf'blocks\.(\d+)\.{name}'
  return keymap.dense(source, f'stack/layers/{target}', change, r'[\1]')


# Of the names that `prepare` gives.
RULES = (
  Rule('tokens', 'params/token_embed/embedding'),
  Rule('classes', 'params/class_embed/table/embedding'),
  Rule('cls_token', 'params/start/table', _row),
  Rule(_PLACE, 'params/positions/table', _row),
  Rule(_TARGET, 'params/targets/table', _row),
  Rule(_TIME, 'params/times/table', _row),
  *_norm('norm1', 'norm1'),
  *_dense(r'attn\.qkv', 'attn/qkv'),
  *_norm(r'attn\.q_norm', 'attn/q_norm'),
  *_norm(r'attn\.k_norm', 'attn/k_norm'),
  *_dense(r'attn\.proj', 'attn/proj'),
  *_norm('norm2', 'norm2'),
  *_dense(r'mlp\.fc1', 'mlp/fc1'),
  *_dense(r'mlp\.fc2', 'mlp/fc2'),
  *_dense(r'adaLN_modulation\.1', 'ada', MODULATION),
  *keymap.dense(r'adaln_before_head\.adaLN_modulation\.1', 'head/ada'),
  *keymap.dense('lm_head', 'head/logits'),
  Rule('attn_mask', None),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts released tensors into those that `RULES` name.

  The vocabulary becomes `tokens` [V, D] and `classes` [K + 1, D]; the tables
  keep the rows that a row of N tokens reads. What is missing stays so.

  Args:
    tensors: released names to arrays.
  """
  found = dict(tensors)
  if _TABLE in found and _HEAD in found:
    codes = found[_HEAD].shape[0]
    vocabulary = found.pop(_TABLE)
    found['tokens'] = vocabulary[:codes]
    found['classes'] = vocabulary[codes + 1 :]
  if _PLACE in found:
    tokens = found[_PLACE].shape[1] - _ROOM
    read = {
      _PLACE: slice(PREFIX + tokens),
      _TARGET: slice(PREFIX, PREFIX + tokens),
      _TIME: slice(1 + tokens),
    }
    for name in read.keys() & found.keys():
      found[name] = found[name][:, read[name]]
  return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> RARConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  head, hidden = 'blocks.0.attn.q_norm.weight', 'blocks.0.mlp.fc1.weight'
  keymap.require(shapes, _HEAD, _TABLE, _PLACE, head, hidden)
  codes, width = shapes[_HEAD]
  tokens = shapes[_PLACE][1] - _ROOM
  return RARConfig(
    codebook_size=codes,
    num_classes=shapes[_TABLE][0] - codes - 2,
    width=width,
    depth=len(keymap.indexed(shapes, r'blocks\.(\d+)\.mlp\.fc1\.weight')),
    heads=width // shapes[head][0],
    mlp_ratio=shapes[hidden][0] / width,
    tokens=tokens,
    prefixes=(tokens,),
    dropout=0.1,
  )


def released_config(width: int, depth: int, hidden: int) -> RARConfig:
  """A published generator (section 4.1, table 1): 16 heads, 256 tokens.

  Args:
    width: D.
    depth: layers.
    hidden: features of the MLPs.
  """
  return RARConfig(
    codebook_size=1024,
    width=width,
    depth=depth,
    mlp_ratio=hidden / width,
    prefixes=(256,),
    dropout=0.1,
  )


def expected(config: RARConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  return jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )
