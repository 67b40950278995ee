"""Generators: order, visibility, inputs, commit, head and sampler, composed."""

from tokpress_jax.generators.base import GeneratorConfig, Sampled, sample
from tokpress_jax.generators.heads import CategoricalHead
from tokpress_jax.generators.loops import BlockLoop, RefineLoop
from tokpress_jax.generators.next_token import (
  NextTokenConfig,
  NextTokenGenerator,
)
from tokpress_jax.generators.order import Order, reveal_counts
from tokpress_jax.generators.sampling import SCHEDULES, Sampler
from tokpress_jax.generators.scale_wise import (
  ScaleWiseConfig,
  ScaleWiseGenerator,
)

__all__ = [
  'SCHEDULES',
  'BlockLoop',
  'CategoricalHead',
  'GeneratorConfig',
  'NextTokenConfig',
  'NextTokenGenerator',
  'Order',
  'RefineLoop',
  'Sampled',
  'Sampler',
  'ScaleWiseConfig',
  'ScaleWiseGenerator',
  'reveal_counts',
  'sample',
]
