"""Released weights of ALIT: their names, and the config they fit.

Files of ShivamDuggal4/adaptive-length-tokenizer whose base is MAGE's VQGAN,
which the state dict holds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, Transform
from tokpress_jax.tokenizers.alit import ALITConfig
from tokpress_jax.tokenizers.karl_keys import (
  VQGAN_RULES,
  quantizer_of,
  sizes_of,
)
from tokpress_jax.tokenizers.maskgit_vqgan_keys import layer
from tokpress_jax.tokenizers.tower_keys import ROW, table
from tokpress_jax.tokenizers.towers import TowerConfig


def _rounds(tokens: int) -> Transform:
  """[R, M, D] to a table of R M rows, and back for M latents."""
  return Transform(
    lambda x: x.reshape(-1, x.shape[-1]),
    lambda x: x.reshape(-1, tokens, x.shape[-1]),
  )


RULES = (
  *VQGAN_RULES,
  table('(encoder|decoder)_class_embedding', r'\1/class_token'),
  table('(encoder|decoder)_positional_embedding', r'\1/positions'),
  table('encoder_mask_token', 'encoder/mask_token', ROW),
  table('latent_token_positional_embedding', 'encoder/latent_positions'),
  table('timestep_embedding', 'encoder/rounds', _rounds(ALITConfig.tokens)),
  *layer('encoder_ln_recursive', 'encoder/norm_again', 'scale'),
  table(
    r'decoder\.latent_token_positional_embedding', 'decoder/latent_positions'
  ),
  *layer(r'decoder\.decoder_embed', 'decoder/from_code', transform=LINEAR),
)

SIZES = {
  'tiny': TowerConfig(width=512, depth=8, heads=8),
  'small': TowerConfig(width=1024, depth=8, heads=8),
  'base': TowerConfig(width=768, depth=12, heads=12),
  'semilarge': TowerConfig(width=1024, depth=16, heads=16),
}


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> ALITConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    'timestep_embedding',
    'encoder_ln_recursive.weight',
    'decoder_positional_embedding',
    'decoder.decoder_embed.weight',
  )
  rounds, tokens, _ = shapes['timestep_embedding']
  width, features = shapes['decoder.decoder_embed.weight']
  return ALITConfig(
    **sizes_of(shapes, width),
    quantizer=quantizer_of(shapes, features),
    rounds=rounds,
    tokens=tokens,
  )


def released_config(size: str) -> ALITConfig:
  """A released tokenizer: 'tiny', 'small', 'base' or 'semilarge'."""
  return ALITConfig(encoder=SIZES[size], decoder=SIZES[size])


def expected(config: ALITConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
