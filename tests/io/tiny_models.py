"""Untrained models that are made in a second."""

import functools
import json

import jax
import jax.numpy as jnp

from tokpress_jax import quantize, types
from tokpress_jax.generators import (
  MaskGenConfig,
  NextTokenConfig,
  ScaleWiseConfig,
)
from tokpress_jax.models import ClipTextConfig
from tokpress_jax.models.vit_config import ViTConfig
from tokpress_jax.tokenizers import (
  KARLConfig,
  MultiScaleConfig,
  OneDConfig,
  TiTokConfig,
  TowerConfig,
)

SMALL = {'image_size': 8, 'channels': 1, 'patch': 4, 'width': 16, 'heads': 2}
VQ = quantize.VQConfig(codebook_size=16, dim=4)
ONE_D = OneDConfig(
  **SMALL, tokens=3, encoder_depth=1, decoder_depth=1, quantizer=VQ
)
MULTI_SCALE = MultiScaleConfig(
  **SMALL,
  encoder_depth=1,
  decoder_depth=1,
  quantizer=quantize.MultiScaleVQConfig(vq=VQ, scales=(1, 2), phi=0),
)
SCALE_WISE = ScaleWiseConfig(
  codebook_size=16,
  num_classes=3,
  width=16,
  depth=1,
  heads=2,
  scales=(1, 2),
  latent_dim=4,
)
NEXT_TOKEN = NextTokenConfig(
  codebook_size=16, num_classes=3, width=16, depth=1, heads=2, tokens=3
)
TOWER = TowerConfig(width=16, depth=1, heads=2)
TA_TITOK = TiTokConfig(
  image_size=8,
  channels=1,
  patch=4,
  tokens=3,
  encoder=TOWER,
  decoder=TOWER,
  quantizer=VQ,
  text_tokens=6,
  text_features=8,
)
MASK_GEN = MaskGenConfig(
  codebook_size=16,
  width=16,
  depth=2,
  heads=2,
  tokens=3,
  prefixes=(3,),
  text_features=8,
  score_features=4,
)
CLIP_TEXT = ClipTextConfig(
  vocabulary=16, length=6, width=8, depth=2, heads=2, features=8
)
KARL = KARLConfig(
  image_size=8,
  channels=1,
  patch=4,
  tokens=5,
  slots=5,
  encoder=TOWER,
  decoder=TOWER,
  quantizer=quantize.FSQConfig(levels=(4, 4)),
  bins=(0.1, 0.2),
  halting_width=8,
  places=2,
  vqgan=None,
  spread=0.02,
)
VIT = ViTConfig(
  image_size=8, channels=1, patch=4, width=16, heads=2, depth=1, classes=3
)


def loaded(config, family, *inputs, tokenizer=None):
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(0), *inputs)
  # No zeros: what is zero at the start would hide errors.
  variables = jax.tree.map(lambda x: x + 0.01, variables)
  spec = types.Spec(name='tiny', family=family, config=config, licence='CC0')
  return types.Loaded(module, variables, spec, tokenizer)


IMAGES = jax.random.uniform(jax.random.key(1), (2, 8, 8, 1), minval=-1)


@functools.cache
def one_d():
  return loaded(ONE_D, 'tokenizer', IMAGES)


@functools.cache
def karl():
  """It halts: more than one number of tokens, of any slots."""
  config = KARL
  module = config.build()
  length, bins = jnp.full(2, 5), jnp.zeros(2, jnp.int32)
  init = lambda rng: module.init(
    rng, IMAGES, length, bins=bins, method='try_out'
  )
  variables = jax.jit(init)(jax.random.key(0))
  variables['params']['encoder']['halting_out']['kernel'] *= 100
  spec = types.Spec(name='tiny', family='tokenizer', config=config)
  return types.Loaded(module, variables, spec)


@functools.cache
def scale_wise():
  tokenizer = loaded(MULTI_SCALE, 'tokenizer', IMAGES)
  inputs = jnp.zeros((2, 4, 4)), jnp.zeros(2, jnp.int32)
  return loaded(SCALE_WISE, 'generator', *inputs, tokenizer=tokenizer)


@functools.cache
def next_token():
  inputs = NEXT_TOKEN.example_inputs()
  return loaded(NEXT_TOKEN, 'generator', *inputs, tokenizer=one_d())


@functools.cache
def vit():
  return loaded(VIT, 'model', IMAGES)


@functools.cache
def ta_titok():
  return loaded(TA_TITOK, 'tokenizer', IMAGES)


@functools.cache
def mask_gen():
  inputs = MASK_GEN.example_inputs()
  return loaded(MASK_GEN, 'generator', *inputs, tokenizer=ta_titok())


@functools.cache
def clip_text():
  return loaded(CLIP_TEXT, 'encoder', jnp.zeros((1, 6), jnp.int32))


def clip_vocabulary(path):
  """Writes a small `tokenizer.json` of CLIP's form; returns its codes."""
  letters = [c + end for c in 'acat<>' for end in ('', '</w>')]
  names = [*dict.fromkeys(letters), 'at</w>', 'cat</w>']
  names += ['<|startoftext|>', '<|endoftext|>']
  ends = {name: len(names) - 2 + i for i, name in enumerate(names[-2:])}
  body = {
    'version': '1.0',
    'added_tokens': [
      {
        'id': number,
        'content': name,
        'single_word': False,
        'lstrip': False,
        'rstrip': False,
        'normalized': False,
        'special': True,
      }
      for name, number in ends.items()
    ],
    'normalizer': {'type': 'Lowercase'},
    'pre_tokenizer': {'type': 'Whitespace'},
    'post_processor': {
      'type': 'RobertaProcessing',
      'sep': ['<|endoftext|>', ends['<|endoftext|>']],
      'cls': ['<|startoftext|>', ends['<|startoftext|>']],
      'trim_offsets': False,
      'add_prefix_space': False,
    },
    'model': {
      'type': 'BPE',
      'end_of_word_suffix': '</w>',
      'vocab': {name: i for i, name in enumerate(names)},
      'merges': [['a', 't</w>'], ['c', 'at</w>']],
    },
  }
  path.write_text(json.dumps(body))
  return {name: i for i, name in enumerate(names)}
