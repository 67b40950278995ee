"""Losses: pure functions of arrays, float32, with masks; and their networks."""

from tokpress_jax.losses.adversarial import (
  Game,
  Lecam,
  LogitSums,
  adaptive_weight,
  discriminator_loss,
  generator_loss,
  logit_sums,
  with_gradient,
)
from tokpress_jax.losses.blur_discriminator import (
  BlurDiscriminator,
  BlurDiscriminatorConfig,
)
from tokpress_jax.losses.classification import accuracy, cross_entropy
from tokpress_jax.losses.contrastive import clip_loss, same_rows, siglip_loss
from tokpress_jax.losses.convnext import ConvNeXt, load_convnext
from tokpress_jax.losses.decibel import decibel
from tokpress_jax.losses.discriminator import (
  PatchDiscriminator,
  PatchDiscriminatorConfig,
)
from tokpress_jax.losses.lpips import LPIPS, load_lpips
from tokpress_jax.losses.reconstruction import charbonnier, l1, l2

__all__ = [
  'LPIPS',
  'BlurDiscriminator',
  'BlurDiscriminatorConfig',
  'ConvNeXt',
  'Game',
  'Lecam',
  'LogitSums',
  'PatchDiscriminator',
  'PatchDiscriminatorConfig',
  'accuracy',
  'adaptive_weight',
  'charbonnier',
  'clip_loss',
  'cross_entropy',
  'decibel',
  'discriminator_loss',
  'generator_loss',
  'l1',
  'l2',
  'load_convnext',
  'load_lpips',
  'logit_sums',
  'same_rows',
  'siglip_loss',
  'with_gradient',
]
