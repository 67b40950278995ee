"""Generators: order, visibility, inputs, commit, head and sampler, composed."""

from tokpress_jax.generators.base import (
  Drawn,
  GeneratorConfig,
  Sampled,
  sample,
)
from tokpress_jax.generators.editing import Box, drawn_tokens, keep
from tokpress_jax.generators.heads import CategoricalHead
from tokpress_jax.generators.loops import BlockLoop, RefineLoop
from tokpress_jax.generators.maskgit import MaskGIT, MaskGITConfig
from tokpress_jax.generators.next_token import (
  NextTokenConfig,
  NextTokenGenerator,
)
from tokpress_jax.generators.order import Order, reveal_counts
from tokpress_jax.generators.rar import RAR, Ranked, RARConfig
from tokpress_jax.generators.ready import for_sampling
from tokpress_jax.generators.sampling import SCHEDULES, Sampler
from tokpress_jax.generators.scale_wise import (
  ScaleWiseConfig,
  ScaleWiseGenerator,
)

__all__ = [
  'RAR',
  'SCHEDULES',
  'BlockLoop',
  'Box',
  'CategoricalHead',
  'Drawn',
  'GeneratorConfig',
  'MaskGIT',
  'MaskGITConfig',
  'NextTokenConfig',
  'NextTokenGenerator',
  'Order',
  'RARConfig',
  'Ranked',
  'RefineLoop',
  'Sampled',
  'Sampler',
  'ScaleWiseConfig',
  'ScaleWiseGenerator',
  'drawn_tokens',
  'for_sampling',
  'keep',
  'reveal_counts',
  'sample',
]
