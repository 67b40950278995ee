"""Released weights of TiTok's and One-D-Piece's masked generators.

Two layouts: Hugging Face's BERT (under `model.`), and a U-ViT. Both keep one
vocabulary: V codes, the mask, K classes, no class. BERT adds a vector for each
of two kinds of text to the positions; all tokens are of the first kind.

Dimension letters: V codes, K classes, N tokens, D model features, H layers of
half a U-ViT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from tokpress_jax.generators.maskgit import MaskGITConfig
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, Transform, dense, norm

_TABLES = ('embeddings.weight', 'embeddings.word_embeddings.weight')
_HEAD = 'lm_head.weight'
_row = Transform(lambda x: x[0], lambda x: x[None])


def _layer(make: Any, source: str, target: str) -> tuple[Rule, Rule]:
  return make(source, f'stack/layers/{target}', row=r'[\1]')


# Of the names that `prepare` gives.
_BERT = r'encoder\.layer\.(\d+)\.'
_BLOCK = r'blocks\.(\d+)\.'
RULES = (
  Rule('tokens', 'params/token_embed/embedding'),
  Rule('classes', 'params/class_embed/table/embedding'),
  Rule('pos_embed', 'params/positions/table', _row),
  Rule('positions', 'params/positions/table'),
  *norm(r'embeddings\.LayerNorm', 'norm'),
  *norm('norm', 'norm'),
  *dense('lm_head', 'logits'),
  *_layer(dense, rf'{_BERT}attention\.self\.qkv', 'attn/qkv'),
  *_layer(dense, rf'{_BERT}attention\.output\.dense', 'attn/proj'),
  *_layer(norm, rf'{_BERT}attention\.output\.LayerNorm', 'norm1'),
  *_layer(dense, rf'{_BERT}intermediate\.dense', 'mlp/fc1'),
  *_layer(dense, rf'{_BERT}output\.dense', 'mlp/fc2'),
  *_layer(norm, rf'{_BERT}output\.LayerNorm', 'norm2'),
  *_layer(norm, rf'{_BLOCK}norm1', 'norm1'),
  *_layer(dense, rf'{_BLOCK}attn\.qkv', 'attn/qkv'),
  *_layer(dense, rf'{_BLOCK}attn\.proj', 'attn/proj'),
  *_layer(norm, rf'{_BLOCK}norm2', 'norm2'),
  *_layer(dense, rf'{_BLOCK}mlp\.fc1', 'mlp/fc1'),
  *_layer(dense, rf'{_BLOCK}mlp\.fc2', 'mlp/fc2'),
  Rule(
    r'out_blocks\.(\d+)\.skip_linear\.weight',
    r'params/stack/skip_kernel[\1]',
    LINEAR,
  ),
  Rule(r'out_blocks\.(\d+)\.skip_linear\.bias', r'params/stack/skip_bias[\1]'),
  Rule(r'embeddings\.position_ids', None),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts and joins released tensors into those that `RULES` name.

  The vocabulary becomes `tokens` [V + 1, D] and `classes` [K + 1, D]; BERT's
  positions take its first kind's vector in; queries, keys and values become one
  `qkv`; the blocks of a U-ViT are counted through. What is missing stays so.

  Args:
    tensors: released names to arrays.
  """
  found = _bare(tensors)
  table = next((name for name in _TABLES if name in found), None)
  if table and _HEAD in found:
    codes = found[_HEAD].shape[0]
    vocabulary = found.pop(table)
    found['tokens'] = vocabulary[: codes + 1]
    found['classes'] = vocabulary[codes + 1 :]
  names = [
    f'embeddings.{n}_embeddings.weight' for n in ('position', 'token_type')
  ]
  if all(name in found for name in names):
    positions, kinds = (found.pop(name) for name in names)
    found['positions'] = positions + kinds[:1]
  for name in [n for n in found if '.attention.self.query.' in n]:
    parts = [name.replace('query', part) for part in ('query', 'key', 'value')]
    if all(part in found for part in parts):
      joined = np.concatenate([found.pop(part) for part in parts])
      found[name.replace('query', 'qkv')] = joined
  half = len({n.split('.')[1] for n in found if n.startswith('in_blocks.')})
  return {_counted(name, half): value for name, value in found.items()}


def _counted(name: str, half: int) -> str:
  """The name of a U-ViT's tensor with its layer counted from the input."""
  match = re.fullmatch(r'(in|out)_blocks\.(\d+)\.(.*)|mid_block\.(.*)', name)
  if match is None or (match[3] or '').startswith('skip_linear'):
    return name
  if match[4]:
    return f'blocks.{half}.{match[4]}'
  first = 0 if match[1] == 'in' else half + 1
  return f'blocks.{first + int(match[2])}.{match[3]}'


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> MaskGITConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: 16, as all
      released ones have.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  shapes = _bare(shapes)
  bert = _TABLES[1] in shapes
  layer = 'encoder.layer' if bert else 'in_blocks'
  inner = 'intermediate.dense.weight' if bert else 'mlp.fc1.weight'
  place = 'embeddings.position_embeddings.weight' if bert else 'pos_embed'
  table = _TABLES[bert]
  keymap.require(shapes, _HEAD, table, place, f'{layer}.0.{inner}')
  layers = keymap.indexed(shapes, rf'{re.escape(layer)}\.(\d+)\.{inner}')
  codes, width = shapes[_HEAD]
  return MaskGITConfig(
    codebook_size=codes,
    num_classes=shapes[table][0] - codes - 2,
    width=width,
    depth=len(layers) if bert else 2 * len(layers) + 1,
    mlp_ratio=layers[0][0] / width,
    tokens=shapes[place][-2] - 1,
    prefixes=(shapes[place][-2] - 1,),
    network='bert' if bert else 'uvit',
    norm_eps=1e-12 if bert else 1e-5,
    dropout=0.1,
  )


def released_config(
  network: str, tokens: int, prefixes: str = 'whole'
) -> MaskGITConfig:
  """A published generator (TiTok, section 4; One-D-Piece, section 4).

  Args:
    network: 'bert' for TiTok-L-32, -B-64 and One-D-Piece; 'uvit' for -S-128: 20
      layers and a middle one, 64 steps.
    tokens: N.
    prefixes: of its tokenizer, 'whole' or 'any'.
  """
  same: dict[str, Any] = {
    'tokens': tokens,
    'prefixes': (tokens,) if prefixes == 'whole' else (),
    'dropout': 0.1,
  }
  if network == 'bert':
    return MaskGITConfig(width=768, depth=24, **same)
  return MaskGITConfig(
    network='uvit', width=1024, depth=21, steps=64, norm_eps=1e-5, **same
  )


def expected(config: MaskGITConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  return jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )


def _bare(tensors: Mapping[str, Any]) -> dict[str, Any]:
  """Names without the `model.` of the BERTs."""
  return {name.removeprefix('model.'): x for name, x in tensors.items()}
