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
from tokpress_jax.models.reader import Answer, Reader, Seen
from tokpress_jax.models.reader_config import CompressorConfig, ReaderConfig
from tokpress_jax.models.sites import Plan, parse_plan
from tokpress_jax.models.vit import ViT, ViTOutput
from tokpress_jax.models.vit_config import PRESETS, ViTConfig

__all__ = [
  'CLIP',
  'PRESETS',
  'Answer',
  'CLIPConfig',
  'ClipText',
  'ClipTextConfig',
  'CompressorConfig',
  'Plan',
  'Reader',
  'ReaderConfig',
  'Seen',
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
