"""Hosts: models in which pruners stand."""

from tokpress_jax.models.sites import Plan, parse_plan
from tokpress_jax.models.vit import (
  PRESETS,
  ViT,
  ViTConfig,
  ViTOutput,
  model_flops,
  token_counts,
)

__all__ = [
  'PRESETS',
  'Plan',
  'ViT',
  'ViTConfig',
  'ViTOutput',
  'model_flops',
  'parse_plan',
  'token_counts',
]
