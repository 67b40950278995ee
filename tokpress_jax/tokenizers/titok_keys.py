"""Released weights of the TiTok family: their names, and the configs they fit.

TiTok and TA-TiTok of bytedance/1d-tokenizer, One-D-Piece of
turingmotors/One-D-Piece. Three things no tensor says. Whether every prefix
decodes: it does in One-D-Piece, whose files are TiTok's in all else. The layout
of the tokens ('legacy' or 'token', see `TiTokConfig`): the official classes
have one flag for it and for the head, so a head over the VQGAN's codes is taken
for 'legacy' and a head of pixels for 'token', unless `layout` says otherwise.
And whether codes have unit length: those of the released tokenizers with a head
over the VQGAN's codes do, the others do not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import quantize
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.io.keymap import CONV, LINEAR, PATCH, Rule
from tokpress_jax.tokenizers import maskgit_vqgan_keys
from tokpress_jax.tokenizers.maskgit_vqgan import MaskGITVQGANConfig
from tokpress_jax.tokenizers.maskgit_vqgan_keys import layer
from tokpress_jax.tokenizers.titok import Layout, TiTokConfig
from tokpress_jax.tokenizers.tower_keys import (
  BLOCKS,
  BOTH,
  POINT,
  ROW,
  table,
)
from tokpress_jax.tokenizers.towers import TOWERS, TowerConfig

RULES = (
  table('latent_tokens', 'encoder/latent_tokens'),
  table(rf'{BOTH}\.class_embedding', r'\1/class_token'),
  table(rf'{BOTH}\.positional_embedding', r'\1/positions'),
  table(rf'{BOTH}\.latent_token_positional_embedding', r'\1/latent_positions'),
  table(r'decoder\.mask_token', 'decoder/mask_token', ROW),
  *layer(r'encoder\.patch_embed', 'encoder/patch_embed', transform=PATCH),
  *layer(rf'{BOTH}\.ln_pre', r'\1/norm_in', 'scale'),
  *layer(rf'{BOTH}\.ln_post', r'\1/norm_out', 'scale'),
  *BLOCKS,
  *layer(r'encoder\.conv_out', 'encoder/to_code', transform=POINT),
  *layer(r'decoder\.decoder_embed', 'decoder/from_code', transform=LINEAR),
  *layer(r'decoder\.text_guidance_proj', 'decoder/text', transform=LINEAR),
  table(
    r'decoder\.text_guidance_positional_embedding', 'decoder/text_positions'
  ),
  Rule(r'quantize\.embedding\.weight', 'params/quantizer/codebook'),
  Rule(r'quantize\.embed_prob', None),  # a usage statistic
  Rule(r'pixel_quantize\.embedding\.weight', 'params/painter/codebook'),
  *maskgit_vqgan_keys.network_rules('pixel_decoder', 'painter/decoder'),
  *layer(r'decoder\.conv_out', 'painter/conv_out', transform=CONV),
  *layer(r'decoder\.ffn\.0', 'painter/project', transform=POINT),
  *layer(r'decoder\.ffn\.2', 'painter/to_logits', transform=POINT),
)


def config_of(
  shapes: Mapping[str, tuple[int, ...]],
  *,
  layout: Layout | None = None,
  prefixes: str = 'whole',
) -> TiTokConfig:
  """The config that released tensors fit.

  Args:
    shapes: released names to shapes.
    layout: of the tokens; what the official classes have with the head of the
      file if None.
    prefixes: 'any' for One-D-Piece.

  Returns:
    The config; widths that are no released size have 64 features a head.

  Raises:
    UserError: names the tensors without which nothing can be said.
  """
  keymap.require(
    shapes,
    'latent_tokens',
    'encoder.patch_embed.weight',
    'encoder.positional_embedding',
    'encoder.conv_out.weight',
    'decoder.decoder_embed.weight',
    'decoder.ffn.0.weight',
  )
  _, channels, patch, _ = shapes['encoder.patch_embed.weight']
  grid = math.isqrt(shapes['encoder.positional_embedding'][0])
  sizes = {'image_size': grid * patch, 'channels': channels, 'patch': patch}
  vqgan = None
  if 'decoder.ffn.2.weight' in shapes:
    vqgan = _vqgan_of(shapes, sizes)
  if layout is None:
    layout = 'token' if vqgan is None else 'legacy'
  text = shapes.get('decoder.text_guidance_proj.weight')
  places = shapes.get('decoder.text_guidance_positional_embedding', (0,))
  return TiTokConfig(
    **sizes,
    tokens=shapes['latent_tokens'][0],
    encoder=_tower_of(shapes, 'encoder'),
    decoder=_tower_of(shapes, 'decoder'),
    quantizer=_quantizer_of(shapes, unit=vqgan is not None),
    layout=layout,
    prefixes='any' if prefixes == 'any' else 'whole',
    vqgan=vqgan,
    text_tokens=places[0],
    **({} if text is None else {'text_features': text[1]}),
  )


def one_d_piece_config_of(
  shapes: Mapping[str, tuple[int, ...]], *, layout: Layout | None = None
) -> TiTokConfig:
  """`config_of` for One-D-Piece: every prefix decodes."""
  config = config_of(shapes, layout=layout, prefixes='any')
  if config.vqgan is None:
    raise UserError(
      'One-D-Piece paints through a VQGAN (decoder.ffn.2, pixel_decoder.*), '
      'and this checkpoint does not: it is of the kind titok.'
    )
  return config


def _tower_of(shapes: Mapping[str, tuple[int, ...]], tower: str) -> TowerConfig:
  width = shapes[f'{tower}.positional_embedding'][1]
  names = rf'{tower}\.transformer\.(\d+)\.ln_1\.weight'
  depth = len(keymap.indexed(shapes, names))
  known = {size.width: size.heads for size in TOWERS.values()}
  heads = known.get(width, max(width // 64, 1))
  return TowerConfig(width=width, depth=depth, heads=heads)


def _quantizer_of(
  shapes: Mapping[str, tuple[int, ...]], *, unit: bool
) -> quantize.VQConfig | quantize.GaussianConfig:
  features = shapes['decoder.decoder_embed.weight'][1]
  if 'quantize.embedding.weight' not in shapes:
    if shapes['encoder.conv_out.weight'][0] != 2 * features:
      raise UserError(
        'The checkpoint has no codebook (quantize.embedding.weight), and its '
        f'encoder gives {shapes["encoder.conv_out.weight"][0]} features where '
        f'a Gaussian of {features} has {2 * features}: it is incomplete.'
      )
    return quantize.GaussianConfig(dim=features)
  codes, dim = shapes['quantize.embedding.weight']
  return quantize.VQConfig(
    codebook_size=codes, dim=dim, distance='cosine' if unit else 'l2'
  )


def _vqgan_of(
  shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]
) -> MaskGITVQGANConfig:
  if 'pixel_decoder.conv_out.weight' not in shapes:
    raise UserError(
      'The checkpoint predicts codes of a VQGAN (decoder.ffn.2) but does not '
      'hold its decoder (pixel_decoder.*): it is one of the first stage of '
      'training, which paints nothing. Give the released file.'
    )
  found = maskgit_vqgan_keys.sizes_of(
    shapes, 'pixel_decoder', 'pixel_quantize.embedding.weight'
  )
  return MaskGITVQGANConfig(**{**found, **sizes})


def released_config(
  encoder: str, decoder: str, tokens: int, kind: str, text: int = 0
) -> TiTokConfig:
  """A released tokenizer.

  Args:
    encoder: its size, a key of `TOWERS`.
    decoder: likewise.
    tokens: N.
    kind: 'legacy', 'one-d-piece', 'vq' or 'vae'.
    text: text tokens that the decoder reads.
  """
  legacy = kind in ('legacy', 'one-d-piece')
  quantizer: quantize.VQConfig | quantize.GaussianConfig
  if legacy:
    quantizer = quantize.VQConfig(codebook_size=4096, dim=12, distance='cosine')
  elif kind == 'vq':
    quantizer = quantize.VQConfig(codebook_size=8192, dim=64)
  else:
    quantizer = quantize.GaussianConfig(dim=16)
  return TiTokConfig(
    tokens=tokens,
    encoder=TOWERS[encoder],
    decoder=TOWERS[decoder],
    quantizer=quantizer,
    layout='legacy' if legacy else 'token',
    prefixes='any' if kind == 'one-d-piece' else 'whole',
    vqgan=MaskGITVQGANConfig() if legacy else None,
    text_tokens=text,
  )


def expected(config: TiTokConfig) -> Any:
  """The variables that weights must fill, as shapes."""
  size = config.image_size
  images = jnp.zeros((1, size, size, config.channels))
  shapes = jax.eval_shape(config.build().init, jax.random.key(0), images)
  return {'params': shapes['params']}
