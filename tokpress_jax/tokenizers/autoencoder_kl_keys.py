"""Released weights of latent diffusion autoencoders: diffusers' AutoencoderKL.

The files `diffusion_pytorch_model.safetensors` of EPFL-VILAB/flextok_vae_c4,
-c8 and -c16; others of the same shape convert too. A decoder counts its levels
from the lowest resolution there, from the highest here. The scaling factor is
no tensor: `describe` reads it from the config.json beside the file.
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

from tokpress_jax import quantize
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, LINEAR, Rule
from tokpress_jax.tokenizers.autoencoder_kl import AutoencoderKLConfig
from tokpress_jax.tokenizers.maskgit_vqgan_keys import layer

# Names of attention layers before diffusers 0.15.
_OLD = {
  'query': 'to_q',
  'key': 'to_k',
  'value': 'to_v',
  'proj_attn': 'to_out.0',
}


def network_rules(source: str = '', target: str = '') -> tuple[Rule, ...]:
  """Rules of the names that `prepare` gives.

  Args:
    source: what stands before the released names, a regular expression without
      groups.
    target: what stands before ours.
  """
  net = rf'{source}(encoder|decoder)'
  block = rf'{net}\.(?:down|up)_blocks\.(\d+)\.resnets\.(\d+)'
  ours = rf'{target}\1/level_\2'
  mid, our_mid = rf'{net}\.mid_block', rf'{target}\1/mid'
  resnets = rf'{mid}\.resnets\.(\d+)'
  attention = rf'{mid}\.attentions\.0'
  rules: list[Rule] = []
  for name, place, part in (
    (block, rf'{ours}/block_\3', r'\4'),
    (resnets, rf'{our_mid}/block_\2', r'\3'),
  ):
    rules += layer(rf'{name}\.(norm[12])', f'{place}/{part}', 'scale')
    rules += layer(rf'{name}\.(conv[12])', f'{place}/{part}', transform=CONV)
    rules += layer(
      rf'{name}\.conv_shortcut', f'{place}/shortcut', transform=CONV
    )
  change = r'samplers\.0\.conv'
  return (
    *rules,
    *layer(
      rf'{net}\.down_blocks\.(\d+)\.down{change}',
      f'{ours}/down',
      transform=CONV,
    ),
    *layer(
      rf'{net}\.up_blocks\.(\d+)\.up{change}', f'{ours}/up', transform=CONV
    ),
    *layer(rf'{attention}\.group_norm', f'{our_mid}/attn/norm', 'scale'),
    *layer(rf'{attention}\.qkv', f'{our_mid}/attn/qkv', transform=LINEAR),
    *layer(
      rf'{attention}\.to_out\.0', f'{our_mid}/attn/proj', transform=LINEAR
    ),
    *layer(rf'{net}\.(conv_in|conv_out)', rf'{target}\1/\2', transform=CONV),
    *layer(rf'{net}\.conv_norm_out', rf'{target}\1/norm_out', 'scale'),
    *layer(rf'{source}quant_conv', f'{target}pre_quant', transform=CONV),
    *layer(rf'{source}post_quant_conv', f'{target}post_quant', transform=CONV),
  )


RULES = network_rules()


def prepare(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Counts a decoder's levels and residual blocks as we do; joins q, k and v.

  Args:
    tensors: released names to arrays, with anything before the names.
  """
  found = {}
  levels = {int(m[1]) for m in map(_UP.search, tensors) if m}
  for name, x in tensors.items():
    parts = name.split('.')
    if 'attentions' in parts:
      name = '.'.join(_OLD.get(part, part) for part in parts)
      x = x.reshape(x.shape[:2])  # Some files have 1x1 convolutions.
    elif 'mid_block' in parts:
      # The blocks of the middle are 1 and 2 here.
      name = re.sub(
        r'resnets\.(\d+)', lambda m: f'resnets.{int(m[1]) + 1}', name
      )
    last = max(levels, default=0)
    name = _UP.sub(lambda m, n=last: f'up_blocks.{n - int(m[1])}.', name)
    found[name] = x
  return join(found, ('to_q', 'to_k', 'to_v'), 'qkv')


_UP = re.compile(r'up_blocks\.(\d+)\.')


def join(
  tensors: Mapping[str, np.ndarray], parts: tuple[str, ...], whole: str
) -> dict[str, np.ndarray]:
  """Joins tensors whose names differ in one part, along the first axis.

  Args:
    tensors: names to arrays.
    parts: such as ('to_q', 'to_k', 'to_v'), in order.
    whole: what stands in their place.

  Returns:
    Names to arrays; what is incomplete stays as it is.
  """
  found = dict(tensors)
  for name in tensors:
    if f'.{parts[0]}.' in name:
      names = [name.replace(f'.{parts[0]}.', f'.{part}.') for part in parts]
      if all(n in found for n in names):
        joined = np.concatenate([found.pop(n) for n in names])
        found[name.replace(f'.{parts[0]}.', f'.{whole}.')] = joined
  return found


def config_of(
  shapes: Mapping[str, tuple[int, ...]], *, prefix: str = ''
) -> AutoencoderKLConfig:
  """The config that released tensors fit, but for the scaling (`describe`).

  Args:
    shapes: released names to shapes.
    prefix: of the names.

  Returns:
    The config, for images of 256 pixels (the weights do not know).

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    f'{prefix}encoder.conv_in.weight',
    f'{prefix}decoder.conv_out.weight',
    f'{prefix}post_quant_conv.weight',
  )
  name = re.escape(f'{prefix}encoder.down_blocks.')
  outputs = keymap.indexed(shapes, rf'{name}(\d+)\.resnets\.0\.conv1\.weight')
  blocks = keymap.indexed(shapes, rf'{name}0\.resnets\.(\d+)\.conv1\.weight')
  width = shapes[f'{prefix}encoder.conv_in.weight'][0]
  dim = shapes[f'{prefix}post_quant_conv.weight'][1]
  return AutoencoderKLConfig(
    image_size=256,
    channels=shapes[f'{prefix}decoder.conv_out.weight'][0],
    patch=2 ** (len(outputs) - 1),
    width=width,
    multipliers=tuple(s[0] // width for s in outputs),
    blocks=len(blocks),
    groups=math.gcd(32, width),
    quantizer=quantize.GaussianConfig(dim=dim),
  )


def describe(
  config: AutoencoderKLConfig, description: Mapping[str, Any]
) -> AutoencoderKLConfig:
  """Adds what no tensor says.

  Args:
    config: of the tensors.
    description: of diffusers' config.json; its `scaling_factor` is read.

  Raises:
    UserError: if there is none.
  """
  scaling = description.get('scaling_factor')
  if not isinstance(scaling, int | float):
    raise UserError(
      'The scaling factor of the latents is no tensor: diffusers keeps it in '
      'config.json ("scaling_factor"). Put that file beside the weights.'
    )
  return dataclasses.replace(config, scaling=float(scaling))


def released_config(channels: int = 16) -> AutoencoderKLConfig:
  """FlexTok's autoencoder of so many latent channels, but for the scaling."""
  return AutoencoderKLConfig(quantizer=quantize.GaussianConfig(dim=channels))


def expected(config: AutoencoderKLConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
