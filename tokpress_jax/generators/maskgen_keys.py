"""Released weights of MaskGen over codes and over vectors.

Both have diffusers' joint blocks under their own names. That over codes keeps
one vocabulary (V codes, a mask, 1,001 rows that nothing reads), of which the
logits' weight is the same tensor, so that a file may hold it under either name
or both. The last block's queries of the text are left out too: nothing reads
what they find. What no tensor says: V (the rest of the vocabulary is taken to
be the released one), the heads, and the scale of the vectors.

Dimension letters: V codes, N tokens, D model features, L layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from tokpress_jax.generators.maskgen import MaskGenConfig
from tokpress_jax.generators.rar_keys import MODULATION
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule, Transform, dense, norm

_TABLES = ('embeddings.weight', 'lm_head.weight')
# Of the official vocabulary, beside the codes: the mask, 1,000 classes, none.
_OTHERS = 1002
_row = Transform(lambda x: x[0], lambda x: x[None])


def _swapped(x: np.ndarray) -> np.ndarray:
  """Shift and scale in place of scale and shift, or the other way round."""
  return np.concatenate(np.split(x, 2)[::-1])


_SWAPPED = Transform(_swapped, _swapped)


def _stream(source: str, target: str, row: str) -> tuple[Rule, ...]:
  """Rules of an image's stream, and of a text's where it is updated."""
  make = lambda name, ours, change=keymap.SAME: dense(
    source + name, f'stack/{target}/{ours}', change, row
  )
  return (
    *make(r'norm1\.linear', 'image/ada', MODULATION),
    *make(r'attn\.qkv', 'image/attn/qkv'),
    *make(r'attn\.to_out\.0', 'image/attn/proj'),
    *make(r'ff\.net\.0\.proj', 'image/mlp/fc1'),
    *make(r'ff\.net\.2', 'image/mlp/fc2'),
    *make(r'norm1_context\.linear', 'text/ada', MODULATION),
    *make(r'attn\.add_qkv', 'text/attn/qkv'),
    *make(r'attn\.to_add_out', 'text/attn/proj'),
    *make(r'ff_context\.net\.0\.proj', 'text/mlp/fc1'),
    *make(r'ff_context\.net\.2', 'text/mlp/fc2'),
  )


def _layer(source: str, target: str, make: Any = dense) -> tuple[Rule, ...]:
  source = rf'diffloss\.net\.res_blocks\.(\d+)\.{source}'
  return make(source, f'head/layers/{target}', row=r'[\1]')


# Of the names that `prepare` gives.
RULES = (
  Rule('tokens', 'params/token_embed/embedding'),
  Rule('pos_embed', 'params/positions/table', _row),
  Rule('decoder_pos_embed_learned', 'params/positions/table', _row),
  Rule('diffusion_pos_embed_learned', 'params/head_positions/table', _row),
  Rule('mask_token', 'params/mask_token/table', _row),
  *dense('text_(?:embed_proj|emb)', 'text'),
  *dense('(?:cond_pooled_proj|text_pooled_emb)', 'pooled'),
  *dense('z_proj', 'vector_embed'),
  *norm('z_proj_ln', 'vector_norm'),
  *dense(r'(?:decoder_)?norm\.linear', 'norm/ada'),
  *dense(r'last\.norm1_context\.linear', 'stack/last/text_norm/ada'),
  *dense(r'last\.attn\.add_kv', 'stack/last/text_kv'),
  Rule(r'last\.attn\.add_q_proj\..*', None),
  *_stream(r'last\.', 'last', ''),
  *_stream(r'blocks\.(\d+)\.', 'layers', r'[\1]'),
  *dense(r'diffloss\.net\.time_embed\.mlp\.0', 'head/time1'),
  *dense(r'diffloss\.net\.time_embed\.mlp\.2', 'head/time2'),
  *dense(r'diffloss\.net\.cond_embed', 'head/features'),
  *dense(r'diffloss\.net\.input_proj', 'head/input'),
  *_layer(r'adaLN_modulation\.1', 'ada'),
  *_layer('in_ln', 'norm', norm),
  *_layer(r'mlp\.0', 'fc1'),
  *_layer(r'mlp\.2', 'fc2'),
  *dense(
    r'diffloss\.net\.final_layer\.adaLN_modulation\.1',
    'head/norm/ada',
    _SWAPPED,
  ),
  *dense(r'diffloss\.net\.final_layer\.linear', 'head/output'),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts and joins released tensors into those that `RULES` name.

  The vocabulary becomes `tokens` [V + 1, D]; queries, keys and values become
  one `qkv`, and a text's one `add_qkv`; the last block becomes `last`. What is
  missing stays so.

  Args:
    tensors: released names to arrays.
  """
  found = {
    re.sub('^decoder_blocks', 'blocks', k): x for k, x in tensors.items()
  }
  for name in _TABLES:
    if name in found:
      found['tokens'] = found.pop(name)[: 1 - _OTHERS]
  numbers = [re.match(r'blocks\.(\d+)\.', name) for name in found]
  last = max((int(m[1]) for m in numbers if m), default=-1)
  start = f'blocks.{last}.'
  found = {
    f'last.{name.removeprefix(start)}' if name.startswith(start) else name: x
    for name, x in found.items()
  }
  _join(found, 'qkv', ('to_q', 'to_k', 'to_v'))
  _join(found, 'add_kv', ('add_k_proj', 'add_v_proj'), only='last.')
  _join(found, 'add_qkv', ('add_q_proj', 'add_k_proj', 'add_v_proj'))
  return found


def _join(
  found: dict[str, np.ndarray],
  joined: str,
  parts: tuple[str, ...],
  only: str = '',
) -> None:
  """Joins tensors of the attention of blocks, where all parts are there."""
  for name in [n for n in found if f'.attn.{parts[0]}.' in n]:
    names = [name.replace(parts[0], part) for part in parts]
    if name.startswith(only) and all(part in found for part in names):
      whole = np.concatenate([found.pop(part) for part in names])
      found[name.replace(parts[0], joined)] = whole


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> MaskGenConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes. Heads do not show in them: 16, as all
      released ones have.

  Returns:
    The config.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  vectors = 'text_pooled_emb.weight' in shapes
  names = ('text_embed_proj', 'cond_pooled_proj', 'pos_embed', '')
  if vectors:
    names = (
      'text_emb',
      'text_pooled_emb',
      'decoder_pos_embed_learned',
      'decoder_',
    )
  text, pooled, place, start = names
  text, pooled = f'{text}.weight', f'{pooled}.weight'
  inner = 'ff.net.0.proj.weight'
  keymap.require(shapes, text, pooled, place, f'{start}blocks.0.{inner}')
  width, features = shapes[text]
  tokens = shapes[place][1]
  layers = keymap.indexed(shapes, rf'{start}blocks\.(\d+)\.{re.escape(inner)}')
  same: dict[str, Any] = {
    'width': width,
    'depth': len(layers),
    'mlp_ratio': layers[0][0] / width,
    'tokens': tokens,
    'prefixes': (tokens,),
    'text_features': features,
    'score_features': shapes[pooled][1] - features,
  }
  if not vectors:
    table = next((name for name in _TABLES if name in shapes), _TABLES[0])
    keymap.require(shapes, table)
    return MaskGenConfig(codebook_size=shapes[table][0] - _OTHERS, **same)
  net = 'diffloss.net.'
  keymap.require(shapes, f'{net}input_proj.weight')
  inside, channels = shapes[f'{net}input_proj.weight']
  blocks = keymap.indexed(shapes, rf'{net}res_blocks\.(\d+)\.in_ln\.weight')
  return MaskGenConfig(
    head='diffusion',
    channels=channels,
    head_width=inside,
    head_depth=len(blocks),
    steps=32,
    **same,
  )


def released_config(
  head: Literal['categorical', 'diffusion'], width: int, depth: int
) -> MaskGenConfig:
  """A published generator (table 1; the official configs).

  Args:
    head: 'categorical' over TA-TiTok-BL-128's codes, 'diffusion' over
      TA-TiTok-BL-32's vectors.
    width: D, of a diffusion head too.
    depth: L.
  """
  if head == 'categorical':
    return MaskGenConfig(width=width, depth=depth, prefixes=(128,))
  return MaskGenConfig(
    head=head,
    width=width,
    depth=depth,
    tokens=32,
    prefixes=(32,),
    steps=32,
    head_width=width,
  )


def expected(config: MaskGenConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  return jax.eval_shape(
    config.build().init, jax.random.key(0), *config.example_inputs()
  )
