"""Hosts, in which pruners stand, and the text encoders that others read."""

from tokpress_jax.models.clip import (
  CLIP,
  CLIPConfig,
  clip_towers,
  image_tower,
)
from tokpress_jax.models.clip_codes import clip_codes
from tokpress_jax.models.clip_text import (
  ClipText,
  ClipTextConfig,
  TextFeatures,
)
from tokpress_jax.models.counts import model_flops, token_counts
from tokpress_jax.models.sites import Plan, parse_plan
from tokpress_jax.models.vit import ViT, ViTOutput
from tokpress_jax.models.vit_config import PRESETS, ViTConfig

__all__ = [
  'CLIP',
  'PRESETS',
  'CLIPConfig',
  'ClipText',
  'ClipTextConfig',
  'Plan',
  'TextFeatures',
  'ViT',
  'ViTConfig',
  'ViTOutput',
  'clip_codes',
  'clip_towers',
  'image_tower',
  'model_flops',
  'parse_plan',
  'token_counts',
]
