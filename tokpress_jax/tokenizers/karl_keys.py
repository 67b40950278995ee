"""Released weights of KARL: their names, and the config they fit.

Files of ShivamDuggal4/karl whose base is MAGE's VQGAN; the state dict holds
it. Discriminators of the last stage of training are dropped. Two things no
tensor says: how many latents an image is encoded with (256, as the official
`encode`), and the heads (those of the official sizes, which follow from the
depth).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import quantize
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import LINEAR, PATCH, Rule, Transform
from tokpress_jax.tokenizers import maskgit_vqgan_keys
from tokpress_jax.tokenizers.karl import KARLConfig
from tokpress_jax.tokenizers.maskgit_vqgan import MaskGITVQGANConfig
from tokpress_jax.tokenizers.maskgit_vqgan_keys import layer
from tokpress_jax.tokenizers.tower_keys import BLOCKS, ROW, table
from tokpress_jax.tokenizers.towers import TowerConfig

BASE = 'base_tokenizer.vqgan'
_BASE = r'base_tokenizer\.vqgan'
HEADS = {8: 8, 12: 12, 16: 16}  # by depth


def _split_places(x: Any) -> Any:
  side = round(x.shape[0] ** 0.5)
  return x.T.reshape(-1, side, side)


# [D, places, places] to a table.
_PLACES = Transform(lambda x: x.reshape(x.shape[0], -1).T, _split_places)

# What a tokenizer over a VQGAN's codes has besides its own tables.
VQGAN_RULES = (
  *BLOCKS,
  *layer(r'encoder_ln_(?:pre)', 'encoder/norm_in', 'scale'),
  *layer(r'encoder_ln_(?:post)', 'encoder/norm_out', 'scale'),
  *layer(r'pre_quantizer_mlp', 'encoder/to_code', transform=LINEAR),
  *layer(r'patch_embed', 'image_tokens/patch_embed', transform=PATCH),
  *layer(r'decoder\.ln_pre', 'decoder/norm_in', 'scale'),
  *layer(r'decoder\.ln_post', 'decoder/norm_out', 'scale'),
  *layer(r'decoder\.ffn\.0', 'painter/project', transform=LINEAR),
  *layer(r'decoder\.ffn\.2', 'painter/to_logits', transform=LINEAR),
  table('decoder_mask_token', 'decoder/mask_token', ROW),
  table('latent_tokens', 'encoder/latent_tokens'),
  Rule(r'quantize\.embedding\.weight', 'params/quantizer/codebook'),
  Rule(rf'{_BASE}\.quantize\.embedding\.weight', 'params/painter/codebook'),
  *maskgit_vqgan_keys.network_rules(rf'{_BASE}\.encoder', 'image_tokens/vqgan'),
  *maskgit_vqgan_keys.network_rules(rf'{_BASE}\.decoder', 'painter/decoder'),
  Rule(r'gan_losses\..*', None),  # of the training
)

RULES = (
  *VQGAN_RULES,
  table('rec_loss_embeddings', 'encoder/targets'),
  table('(encoder|decoder)_positional_embedding', r'\1/positions', _PLACES),
  table('decoder_latent_tokens_timestep_embed', 'decoder/latent_positions'),
  *layer('encoder_ln_post_halt', 'encoder/norm_halting', 'scale'),
  *layer(r'halting_mlp\.0', 'encoder/halting_in', transform=LINEAR),
  *layer(r'halting_mlp\.2', 'encoder/halting_out', transform=LINEAR),
  *layer('decoder_embed', 'decoder/from_code', transform=LINEAR),
)


def config_of(shapes: Mapping[str, tuple[int, ...]]) -> KARLConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.

  Returns:
    The config, for images of 16 x 16 patches (the weights do not know).

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    'rec_loss_embeddings',
    'halting_mlp.0.weight',
    'decoder_embed.weight',
    'decoder_positional_embedding',
  )
  bins = shapes['rec_loss_embeddings'][0]
  if bins != len(KARLConfig.bins):
    raise UserError(
      f'The checkpoint knows {bins} losses (rec_loss_embeddings), and which '
      f'they are it does not say: the released ones know {len(KARLConfig.bins)}'
    )
  slots = shapes['latent_tokens'][0]
  return KARLConfig(
    **sizes_of(shapes, shapes['decoder_positional_embedding'][0]),
    quantizer=quantizer_of(shapes, shapes['decoder_embed.weight'][1]),
    tokens=min(KARLConfig.tokens, slots),
    slots=slots,
    halting_width=shapes['halting_mlp.0.weight'][0],
    places=shapes['decoder_positional_embedding'][1],
  )


def sizes_of(
  shapes: Mapping[str, tuple[int, ...]], decoder_width: int
) -> dict[str, Any]:
  """The fields that KARL and ALIT share: image, towers and VQGAN.

  Args:
    shapes: released names to shapes.
    decoder_width: D of the decoder.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(shapes, 'patch_embed.weight', 'latent_tokens')
  found = maskgit_vqgan_keys.sizes_of(
    shapes, f'{BASE}.decoder', f'{BASE}.quantize.embedding.weight'
  )
  patch = shapes['patch_embed.weight'][-1]
  image = {'image_size': 16 * patch, 'patch': patch}
  image['channels'] = shapes['patch_embed.weight'][1]
  return {
    **image,
    'encoder': _tower(shapes, 'encoder', shapes['latent_tokens'][1]),
    'decoder': _tower(shapes, 'decoder', decoder_width),
    'vqgan': MaskGITVQGANConfig(**{**found, **image}),
  }


def _tower(
  shapes: Mapping[str, tuple[int, ...]], tower: str, width: int
) -> TowerConfig:
  names = rf'{tower}\.transformer\.(\d+)\.ln_1\.weight'
  depth = len(keymap.indexed(shapes, names))
  return TowerConfig(
    width=width, depth=depth, heads=HEADS.get(depth, max(width // 64, 1))
  )


def quantizer_of(
  shapes: Mapping[str, tuple[int, ...]], features: int
) -> quantize.VQConfig | quantize.PlainConfig:
  """The bottleneck: codes of unit length, or none.

  Args:
    shapes: released names to shapes.
    features: C.
  """
  if 'quantize.embedding.weight' not in shapes:
    return quantize.PlainConfig(dim=features)
  codes, dim = shapes['quantize.embedding.weight']
  return quantize.VQConfig(codebook_size=codes, dim=dim, distance='cosine')


def released_config(decoder: int = 1024, kind: str = 'quantized') -> KARLConfig:
  """A released tokenizer.

  Args:
    decoder: width of its decoder.
    kind: 'quantized' or 'continuous'.
  """
  config = KARLConfig(decoder=TowerConfig(width=decoder, depth=8, heads=8))
  if kind == 'quantized':
    return config
  return dataclasses.replace(config, quantizer=quantize.PlainConfig(dim=12))


def expected(config: KARLConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
