"""Released weights of FlexAR, with the official names.

EPFL-VILAB/FlexAR-*: a `model.safetensors` whose `config.yaml` builds it of
parts of apple/ml-l3m and of search-over-tokens/flextok_ar. Sizes, biases, the
gate of the MLP and the norms' parameters are read off the tensors. What no
tensor says, and `config.yaml` does: the norms' epsilon (1e-6 here), norms of
queries and keys that have no parameters (`qk_norm='standard'`; none here), and
a two-layer MLP's activation (exact GELU here). A head has 64 features. Norms
with a weight and no bias are taken for root-mean-square norms; a last norm is
taken to be there, with or without parameters.

The text encoder and the image tokenizer that lie in such a file are left out.
muP's factors are in the published weights already.

Dimension letters: V codes, N tokens, K classes, D model features, L layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.generators.flexar import FlexARConfig
from tokpress_jax.generators.next_token import NextTokenConfig
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule

Config = FlexARConfig | NextTokenConfig

_AR, _TEXT = 'models.ar_image_model', 'models.text_encoder'
_TABLE = f'{_AR}.preprocessor.embedding.weight'
_START = f'{_AR}.preprocessor.sos_token_embed'
_PLACES = f'{_AR}.preprocessor.positional_embedding'
_CLASSES = f'{_AR}.preprocessor.cls_embedding.weight'
_BLOCK = f'{_AR}.trunk.blocks.0'
# Depth of the released models: the width is 64 x depth, a head 64.
DEPTHS = {'113m': 12, '382m': 18, '1b': 26, '3b': 36}


def _layer(source: str, target: str, *, norm: bool = False) -> tuple[Rule, ...]:
  """A layer of all blocks; `target` under the layers' parameters."""
  place = f'params/stack/layers/{target}'
  kernel, change = ('scale', keymap.SAME) if norm else ('kernel', LINEAR)
  return (
    Rule(rf'{source}\.weight', rf'{place}/{kernel}[\1]', change),
    Rule(rf'{source}\.bias', rf'{place}/bias[\1]'),
  )


def _trunk(
  blocks: str, at: str, attention: str, norms: tuple[str, str]
) -> tuple[Rule, ...]:
  """The self-attention and the MLP of all blocks.

  Args:
    blocks: their name, with a group for the number.
    at: where our block lies.
    attention: its name.
    norms: names of the norm before it and of that before the MLP.
  """
  return (
    *_layer(rf'{blocks}\.{attention}\.qkv', f'{at}attn/qkv'),
    *_layer(rf'{blocks}\.{attention}\.proj', f'{at}attn/proj'),
    *_layer(rf'{blocks}\.{attention}\.q_norm', f'{at}attn/q_norm', norm=True),
    *_layer(rf'{blocks}\.{attention}\.k_norm', f'{at}attn/k_norm', norm=True),
    *_layer(rf'{blocks}\.{norms[0]}', f'{at}norm1', norm=True),
    *_layer(rf'{blocks}\.{norms[1]}', f'{at}norm2', norm=True),
    *_layer(rf'{blocks}\.mlp\.fc1', f'{at}mlp/fc1'),
    *_layer(rf'{blocks}\.mlp\.fc2', f'{at}mlp/fc2'),
    *_layer(rf'{blocks}\.mlp\.fc3', f'{at}mlp/gate'),
  )


_CROSS = r'cross_blocks\.(\d+)'

RULES = (
  Rule(re.escape(_TABLE), 'params/token_embed/embedding'),
  Rule('start', 'params/start/table'),
  Rule('classes', 'params/class_embed/table/embedding'),
  Rule(re.escape(_PLACES), 'params/place/table'),
  *_trunk(r'blocks\.(\d+)', '', 'attn', ('norm_1', 'norm_2')),
  *_trunk(_CROSS, 'block/', 'self_attn', ('norm_1', 'norm_3')),
  *_layer(rf'{_CROSS}\.norm_2', 'norm', norm=True),
  *_layer(rf'{_CROSS}\.cross_attn\.Wq', 'cross/query'),
  *_layer(rf'{_CROSS}\.cross_attn\.Wkv', 'cross/keys'),
  *_layer(rf'{_CROSS}\.cross_attn\.proj', 'cross/proj'),
  *_layer(rf'{_CROSS}\.cross_attn\.q_norm', 'cross/q_norm', norm=True),
  *_layer(rf'{_CROSS}\.cross_attn\.k_norm', 'cross/k_norm', norm=True),
  Rule(r'text\.fc1\.weight', 'params/text_hidden/kernel', LINEAR),
  Rule(r'text\.fc2\.weight', 'params/text_out/kernel', LINEAR),
  Rule(r'final\.weight', 'params/head/norm/scale'),
  Rule(r'final\.bias', 'params/head/norm/bias'),
  Rule(r'logits\.weight', 'params/head/logits/kernel', LINEAR),
  Rule(r'logits\.bias', 'params/head/logits/bias'),
  # Models of their own, which `config.yaml` loads from elsewhere.
  Rule(r'models\.image_tokenizer\..*', None),
  Rule(r'models\.text_encoder\.t5_embedder\..*', None),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts and joins released tensors into those that `RULES` name.

  The start goes into the table of classes, [K + 1, D], whose last row is no
  class. Keys and values of the cross-attention become one. A head without a
  bias, or a last norm without parameters, gets those that change nothing. What
  is missing stays so.

  Args:
    tensors: released names to arrays.
  """
  found = dict(tensors)
  texts = f'{_BLOCK}.cross_attn.Wk.weight' in found
  if _START in found:
    start = found.pop(_START)[0]
    if _CLASSES in found:
      classes = found.pop(_CLASSES)
      found['classes'] = np.concatenate([start + classes, start])
    else:
      found['start'] = start
  for name in [n for n in found if '.cross_attn.Wk.' in n]:
    other = name.replace('.Wk.', '.Wv.')
    if other in found:
      joined = np.concatenate([found.pop(name), found.pop(other)])
      found[name.replace('.Wk.', '.Wkv.')] = joined
  parts = {
    f'{_AR}.trunk.blocks': 'cross_blocks' if texts else 'blocks',
    f'{_TEXT}.mlp': 'text',
    f'{_AR}.trunk.post_trunk_norm': 'final',
    f'{_AR}.head.linear': 'logits',
  }
  for theirs, ours in parts.items():
    for name in [n for n in found if n.startswith(f'{theirs}.')]:
      found[name.replace(theirs, ours, 1)] = found.pop(name)
  if 'logits.weight' in found:
    codes, width = found['logits.weight'].shape
    found.setdefault('logits.bias', np.zeros(codes, np.float32))
    if 'final.weight' not in found:
      found['final.weight'] = np.ones(width, np.float32)
      if _norm_of(tensors) == 'layer':
        found['final.bias'] = np.zeros(width, np.float32)
  return found


def config_of(
  shapes: Mapping[str, tuple[int, ...]],
  *,
  qk_norm: Literal['standard'] | None = None,
) -> Config:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.
    qk_norm: whether queries and keys go through norms without parameters.

  Returns:
    A generator of texts, or of classes.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    _TABLE,
    _START,
    _PLACES,
    f'{_BLOCK}.mlp.fc1.weight',
    f'{_AR}.head.linear.weight',
  )
  texts = f'{_BLOCK}.cross_attn.Wk.weight' in shapes
  if not texts and _CLASSES not in shapes:
    raise UserError(
      'The checkpoint has neither a cross-attention nor classes: it is no '
      'FlexAR of texts or of classes.'
    )
  attention = 'self_attn' if texts else 'attn'
  keymap.require(shapes, f'{_BLOCK}.{attention}.qkv.weight')
  width = shapes[_TABLE][1]
  pattern = re.escape(f'{_AR}.trunk.blocks.') + r'(\d+)\.mlp\.fc1\.weight'
  norms = f'{_BLOCK}.{attention}.q_norm'
  learned = 'layer' if f'{norms}.bias' in shapes else 'rms'
  bias = 'none' if f'{_BLOCK}.mlp.fc1.bias' in shapes else 'nowhere'
  if f'{_BLOCK}.{attention}.qkv.bias' in shapes:
    bias = 'all'
  sizes: dict[str, Any] = {
    'codebook_size': shapes[_TABLE][0],
    'tokens': shapes[_PLACES][0],
    'width': width,
    'depth': len(keymap.indexed(shapes, pattern)),
    'heads': max(width // 64, 1),
    'mlp_ratio': shapes[f'{_BLOCK}.mlp.fc1.weight'][0] / width,
    'activation': (
      'swiglu' if f'{_BLOCK}.mlp.fc3.weight' in shapes else 'gelu'
    ),
    'norm': _norm_of(shapes),
    'norm_affine': f'{_BLOCK}.norm_1.weight' in shapes,
    'bias': bias,
    'qk_norm': learned if f'{norms}.weight' in shapes else qk_norm,
  }
  if not texts:
    return NextTokenConfig(
      **sizes, positions='learned', num_classes=shapes[_CLASSES][0]
    )
  keymap.require(shapes, f'{_TEXT}.mlp.fc1.weight')
  features = shapes[f'{_TEXT}.mlp.fc1.weight'][1]
  return FlexARConfig(**sizes, text_features=features)


def _norm_of(names: Mapping[str, Any]) -> Literal['layer', 'rms']:
  """The kind of norm: with a weight and no bias it is 'rms'."""
  weight, bias = (
    f'{_BLOCK}.norm_1.{part}' in names for part in ('weight', 'bias')
  )
  return 'rms' if weight and not bias else 'layer'


def sized(name: str, condition: Literal['text', 'class'] = 'text') -> Config:
  """A model of a released size, the rest as the config's defaults.

  Args:
    name: '113m', '382m', '1b' or '3b' (of texts; the published numbers count
      the matrices of the blocks), or '1b' of classes.
    condition: what it draws for.
  """
  depth = DEPTHS[name]
  sizes: dict[str, Any] = {
    'codebook_size': 64_000,
    'tokens': 256,
    'width': 64 * depth,
    'depth': depth,
    'heads': depth,
    'activation': 'swiglu',
    'mlp_ratio': int(8 / 3 * 64 * depth) / (64 * depth),
    'bias': 'nowhere',
  }
  if condition == 'text':
    return FlexARConfig(**sizes)
  return NextTokenConfig(
    **sizes, positions='learned', norm='layer', num_classes=1000
  )


def expected(config: Config) -> Any:
  """The variables that weights must fill, as shapes."""
  shapes = jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )
  return {'params': shapes['params']}
