"""Released weights of FlexTok: their names, and the configs they fit.

The files `model.safetensors` of EPFL-VILAB/flextok_d12_d12_in1k and others. The
official code builds a model from a description of its modules, which stands in
the file's header and in config.json; modules are found here by what they hold,
whatever they are called. What no tensor says is read from the description: the
scaling of the latents, the time embedding's `max_timestep`, the levels of FSQ.

Dimension letters: D features, S streams, N registers, h patches a side, C
latent channels, p side of a patch.
"""

from __future__ import annotations

import ast
import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import nn, quantize
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Rule, Transform
from tokpress_jax.tokenizers import autoencoder_kl_keys
from tokpress_jax.tokenizers.flextok import FlexTokConfig
from tokpress_jax.tokenizers.maskgit_vqgan_keys import layer
from tokpress_jax.tokenizers.towers import TowerConfig

_ROW = Transform(lambda x: x[None], lambda x: x[0])
_LEVELS = {6: (8, 8, 8, 5, 5, 5)}  # the paper's, by the number of features
# Where our modulation vectors lie among theirs: gates, then shift and scale of
# the attention, then of the MLP.
_ORDER = (0, 1, 3, 5, 2, 4)

_BLOCK = r'(encoder|decoder)\.blocks\.(\d+)'
_STACK = r'params/\1/stack/layers'

# Of the names that `prepare` gives.
RULES = (
  *layer(r'(encoder|decoder)\.patch_proj', r'\1/patch_embed', transform=LINEAR),
  Rule(r'encoder\.registers', 'params/encoder/registers/table'),
  *layer(r'encoder\.out', 'encoder/to_code', transform=LINEAR),
  *layer(r'decoder\.in', 'decoder/from_code', transform=LINEAR),
  Rule(
    r'decoder\.posembs',
    'params/decoder/positions/table',
    Transform(lambda x: x[0, 0].T, lambda x: x.T[None, None]),
  ),
  Rule(r'decoder\.dropout_mask_token', 'params/decoder/mask_token/table', _ROW),
  Rule(r'decoder\.nullcond', 'params/decoder/null/table', _ROW),
  *layer(r'decoder\.mlp\.0', 'decoder/time1', transform=LINEAR),
  *layer(r'decoder\.mlp\.2', 'decoder/time2', transform=LINEAR),
  *layer(r'decoder\.ada', 'decoder/norm/ada', transform=LINEAR),
  *layer(r'decoder\.out', 'decoder/to_patch', transform=LINEAR),
  *(
    Rule(rf'{_BLOCK}\.{theirs}\.weight', rf'{_STACK}/{ours}/kernel[\2]', LINEAR)
    for theirs, ours in (
      (r'attn\.qkv', 'attn/qkv'),
      (r'attn\.proj', 'attn/proj'),
      (r'mlp\.fc1', 'mlp/fc1'),
      (r'mlp\.fc2', 'mlp/fc2'),
      (r'mlp\.fc3', 'mlp/gate'),
      ('ada', 'ada'),
    )
  ),
  Rule(rf'{_BLOCK}\.ada\.bias', rf'{_STACK}/ada/bias[\2]'),
  *autoencoder_kl_keys.network_rules(r'vae\.', 'vae/'),
)


def _names(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
  """Released names to those of `RULES`, before anything is joined."""
  ours = {}
  # The head of the decoder is the module that has a modulation.
  heads = {
    name.split('.')[2]
    for name in shapes
    if re.fullmatch(r'decoder\.module_dict\.\w+\.adaLN_modulation.*', name)
  }
  for name, shape in shapes.items():
    match = re.fullmatch(r'(encoder|decoder)\.module_dict\.(\w+)\.(.*)', name)
    if match is None:
      ours[name] = name.replace('vae.vae.', 'vae.')
      continue
    side, module, rest = match.groups()
    rest = rest.replace('adaLN_modulation.1', 'ada')
    if rest == 'posembs' and shape[:2] != (1, 1):
      rest = 'sines'
    if rest.startswith('proj.'):
      place = 'out' if side == 'encoder' or module in heads else 'in'
      rest = rest.replace('proj', place)
    ours[name] = f'{side}.{rest}'
  return ours


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Cuts and joins released tensors into those that `RULES` name.

  Queries, keys and values become one `qkv`; the vectors of a modulation get our
  order; the tables of sines, which we compute, are compared and dropped.

  Args:
    tensors: released names to arrays.

  Raises:
    UserError: if a table of places is not of sines.
  """
  names = _names({name: x.shape for name, x in tensors.items()})
  found = {}
  for name, x in tensors.items():
    ours = names[name]
    if ours.endswith('.sines'):
      _check_sines(name, x)
      continue
    found[ours] = _ordered(ours, x) if '.ada.' in ours else x
  found = autoencoder_kl_keys.join(found, ('wq', 'wk', 'wv'), 'qkv')
  vae = {k: x for k, x in found.items() if k.startswith('vae.')}
  rest = {k: x for k, x in found.items() if k not in vae}
  return rest | autoencoder_kl_keys.prepare(vae)


def _ordered(name: str, x: np.ndarray) -> np.ndarray:
  """The vectors of a modulation in our order, [S 6 D, ...] or [2 D, ...]."""
  if '.blocks.' not in name:
    shift, scale = np.split(x, 2)
    return np.concatenate([scale, shift])
  # A weight says D; the bias has as many rows, of two streams in all releases.
  width = x.shape[1] if x.ndim > 1 else None
  streams = x.shape[0] // (6 * width) if width else _STREAMS
  parts = x.reshape(streams, 6, -1, *x.shape[1:])
  return np.ascontiguousarray(parts[:, _ORDER]).reshape(x.shape)


_STREAMS = 2  # patches and registers


def _check_sines(name: str, x: np.ndarray) -> None:
  ours = None
  if x.ndim == 4 and x.shape[0] == 1 and not x.shape[1] % 4:
    places = nn.grid_positions(*x.shape[2:])
    ours = np.asarray(nn.sincos(places, x.shape[1])).T.reshape(x.shape)
  if ours is None or not np.allclose(x, ours, atol=1e-4):
    raise UserError(
      f'{name} {x.shape} are places that are not the sines and cosines of a '
      'grid, as in the released files; learned ones are not supported.'
    )


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> FlexTokConfig:
  """The config that released tensors fit, but for what `describe` adds.

  Args:
    shapes: released names to shapes. Heads have 64 features.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  named = {ours: shapes[name] for name, ours in _names(shapes).items()}
  keymap.require(
    named,
    'encoder.registers',
    'encoder.sines',
    'encoder.out.weight',
    'encoder.patch_proj.weight',
    'decoder.dropout_mask_token',
    'decoder.out.weight',
    'vae.post_quant_conv.weight',
  )
  vae = autoencoder_kl_keys.config_of(named, prefix='vae.')
  features = named['decoder.out.weight'][0] // vae.quantizer.dim
  patch = math.isqrt(features) * vae.patch
  size = named['encoder.sines'][-1] * patch
  tokens, width = named['encoder.registers']
  towers = {}
  for side, wide in (
    ('encoder', width),
    ('decoder', named['decoder.dropout_mask_token'][0]),
  ):
    blocks = rf'{side}\.blocks\.(\d+)\.attn\.proj\.weight'
    depth = len(keymap.indexed(named, blocks))
    towers[side] = TowerConfig(width=wide, depth=depth, heads=wide // 64)
  dim = named['encoder.out.weight'][0]
  levels = _LEVELS.get(dim, (5,) * dim)
  return FlexTokConfig(
    image_size=size,
    channels=vae.channels,
    patch=patch,
    tokens=tokens,
    quantizer=quantize.FSQConfig(levels=levels, form='lucidrains'),
    vae=dataclasses.replace(vae, image_size=size),
    null='learned' if 'decoder.nullcond' in named else 'zero',
    **towers,
  )


def describe(
  config: FlexTokConfig, description: Mapping[str, Any]
) -> FlexTokConfig:
  """Adds what no tensor says.

  Args:
    config: of the tensors.
    description: of the file's header or of config.json: the official modules'
      arguments, by name.

  Raises:
    UserError: if it lacks the scaling of the latents or the levels.
  """
  parts = {k: _plain(x) for k, x in description.items()}
  vae, regularizer = parts.get('vae'), parts.get('regularizer')
  if not isinstance(vae, Mapping) or not isinstance(regularizer, Mapping):
    raise UserError(
      'The file has no description of its modules in its header ("vae", '
      '"regularizer", "decoder"), and there is no config.json beside it that '
      'has. Without it nobody knows the scaling of the latents; download '
      'config.json of the same repository.'
    )
  scaling, levels = vae.get('scaling_factor'), regularizer.get('levels')
  if not isinstance(scaling, int | float):
    raise UserError(
      f'The description of the autoencoder has scaling_factor={scaling!r}, '
      'where a number is needed: convert the file of another release.'
    )
  if not levels or len(levels) != config.quantizer.dim:
    raise UserError(
      f'The description has the levels {levels}, and the tensors are of '
      f'{config.quantizer.dim} features.'
    )
  assert config.vae is not None  # No file is without.
  return dataclasses.replace(
    config,
    quantizer=quantize.FSQConfig(levels=tuple(levels), form='lucidrains'),
    vae=dataclasses.replace(config.vae, scaling=float(scaling)),
    max_timestep=_find(parts.get('decoder'), 'max_timestep', 1000.0),
  )


def _plain(value: Any) -> Any:
  """What a header's text stands for."""
  if not isinstance(value, str):
    return value
  try:
    return ast.literal_eval(value)
  except (ValueError, SyntaxError):
    return value


def _find(tree: Any, name: str, default: float) -> float:
  """A number by its name, however deep; the official default else."""
  if not isinstance(tree, Mapping):
    return default
  if isinstance(tree.get(name), int | float):
    return float(tree[name])
  found = (_find(part, name, math.nan) for part in tree.values())
  return next((x for x in found if not math.isnan(x)), default)


def released_config(encoder: int, decoder: int) -> FlexTokConfig:
  """A released tokenizer, but for what `describe` adds.

  Args:
    encoder: its depth; it is 64 times as wide.
    decoder: likewise.
  """
  tower = lambda depth: TowerConfig(width=64 * depth, depth=depth, heads=depth)
  return FlexTokConfig(encoder=tower(encoder), decoder=tower(decoder))


def expected(config: FlexTokConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
