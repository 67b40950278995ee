"""Released weights of ElasticTok, with the official Flax names.

LargeWorldModel/ElasticTok-FSQ and -VAE are streams of `tux` (see
`io.flax_stream`), their layers stacked. What no tensor says: the attention has
128 features a head; images are of 256 pixels, blocks of 4 frames; the rotary
positions' theta and the shortest length go with the bottleneck, as the official
scripts have them. The scripts' `mask_mode` is no field of the official config
(it is `mask_type`) and changes nothing.

Dimension letters: L layers, D model features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import quantize
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import Rule
from tokpress_jax.tokenizers.elastictok import ElasticTokConfig

_SIDES = r'(encoder|decoder)'
_LAYERS = r'(?:encoder|decoder)_blocks\.scan_decoder'
_MARK = 'encoder.encoder_blocks.scan_decoder'


def _dense(name: str, target: str) -> Rule:
  return Rule(rf'{name}\.kernel', f'params/{target}/kernel')


def _layer(name: str, target: str) -> Rule:
  return Rule(
    rf'{_SIDES}\.{_LAYERS}\.{name}\.kernel',
    rf'params/\1/tower/stack/layers/{target}',
  )


RULES = (
  _dense(r'encoder\.in_proj', 'encoder/embed'),
  Rule('encoder.kept', 'params/encoder/kept/table'),
  _dense(r'encoder\.pre_quant', 'encoder/to_code'),
  _dense(r'decoder\.post_quant', 'decoder/from_code'),
  _dense(r'decoder\.out_proj', 'decoder/to_patch'),
  Rule(rf'{_SIDES}\.ln_f\.kernel', r'params/\1/tower/norm/scale'),
  _layer(r'attention\.qkv', 'attn/qkv/kernel'),
  _layer(r'attention\.wo', 'attn/proj/kernel'),
  _layer('attention_norm', 'norm1/scale'),
  _layer(r'feed_forward\.w1', 'mlp/fc1/kernel'),
  _layer(r'feed_forward\.w3', 'mlp/gate/kernel'),
  _layer(r'feed_forward\.w2', 'mlp/fc2/kernel'),
  _layer('ffn_norm', 'norm2/scale'),
)


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Joins released tensors into those that `RULES` name.

  Queries, keys and values become one `qkv` [L, D, 3 D]; the embeddings of slots
  that are masked and kept one table [2, D]. What is missing stays so.

  Args:
    tensors: released names to arrays.
  """
  found = dict(tensors)
  both = [f'encoder.is_{n}_embed' for n in ('masked', 'kept')]
  if all(name in found for name in both):
    found['encoder.kept'] = np.concatenate([found.pop(n) for n in both])
  for name in [n for n in found if n.endswith('.attention.wq.kernel')]:
    parts = [name.replace('wq', part) for part in ('wq', 'wk', 'wv')]
    if all(part in found for part in parts):
      joined = np.concatenate([found.pop(part) for part in parts], axis=-1)
      found[name.replace('wq', 'qkv')] = joined
  return found


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ElasticTokConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  wide, tall = f'{_MARK}.feed_forward.w1.kernel', 'decoder.decoder_blocks'
  keymap.require(
    shapes,
    'encoder.in_proj.kernel',
    'encoder.pre_quant.kernel',
    'decoder.post_quant.kernel',
    wide,
    f'{tall}.scan_decoder.ffn_norm.kernel',
  )
  features, width = shapes['encoder.in_proj.kernel']
  layers, _, hidden = shapes[wide]
  frames, rest = divmod(features, 3 * 8**2)
  codes = shapes['decoder.post_quant.kernel'][0]
  if rest or 4 % max(frames, 1) or not frames:
    raise UserError(
      f'The patches of the checkpoint have {features} numbers; released ones '
      'have 192 or 384, of 1 or 2 frames of 8 x 8 pixels.'
    )
  if shapes['encoder.pre_quant.kernel'][1] == 2 * codes:
    released = released_config('vae')
    quantizer: Any = quantize.GaussianConfig(dim=codes, kl_weight=1e-8)
  elif codes == 6:
    released = released_config('fsq')
    quantizer = released.quantizer
  else:
    raise UserError(
      f'The bottleneck of the checkpoint has {codes} features, which is '
      'neither a Gaussian nor the six levels of the released one.'
    )
  return ElasticTokConfig(
    patch_frames=frames,
    shortest=released.shortest,
    theta=released.theta,
    width=width,
    heads=max(width // 128, 1),
    mlp_ratio=hidden / width,
    encoder_depth=layers,
    decoder_depth=shapes[f'{tall}.scan_decoder.ffn_norm.kernel'][0],
    quantizer=quantizer,
  )


def released_config(bottleneck: Literal['fsq', 'vae']) -> ElasticTokConfig:
  """One of the two released tokenizers."""
  if bottleneck == 'fsq':
    return ElasticTokConfig()
  return ElasticTokConfig(
    patch_frames=2,
    shortest=128,
    theta=5e6,
    quantizer=quantize.GaussianConfig(dim=8, kl_weight=1e-8),
  )


def expected(config: ElasticTokConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
