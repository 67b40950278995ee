"""Rectified flow: straight paths between data and noise, and their sampling."""

from tokpress_jax.flow.guidance import plain_guidance, projected_guidance
from tokpress_jax.flow.path import (
  Times,
  draw_times,
  interpolate,
  velocity,
  velocity_losses,
)
from tokpress_jax.flow.sampling import FlowSampler, Method, Rule, sample

__all__ = [
  'FlowSampler',
  'Method',
  'Rule',
  'Times',
  'draw_times',
  'interpolate',
  'plain_guidance',
  'projected_guidance',
  'sample',
  'velocity',
  'velocity_losses',
]
