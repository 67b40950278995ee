"""Untrained models that are made in a second."""

import functools

import jax
import jax.numpy as jnp

from tokpress_jax import quantize, types
from tokpress_jax.generators import NextTokenConfig, ScaleWiseConfig
from tokpress_jax.models.vit import ViTConfig
from tokpress_jax.tokenizers import MultiScaleConfig, OneDConfig

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
