"""Generators: order, visibility, inputs, commit, head and sampler, composed."""

from tokpress_jax.generators.base import Drawn, GeneratorConfig
from tokpress_jax.generators.condition import Text, text
from tokpress_jax.generators.drawing import Sampled, sample
from tokpress_jax.generators.editing import Box, drawn_tokens, keep
from tokpress_jax.generators.flexar import FlexAR, FlexARConfig
from tokpress_jax.generators.heads import CategoricalHead, DiffusionHead
from tokpress_jax.generators.loops import BlockLoop, RefineLoop
from tokpress_jax.generators.maskgen import MaskGen, MaskGenConfig, Noised
from tokpress_jax.generators.maskgit import MaskGIT, MaskGITConfig
from tokpress_jax.generators.next_token import (
  NextTokenConfig,
  NextTokenGenerator,
)
from tokpress_jax.generators.order import Order, reveal_counts
from tokpress_jax.generators.rar import RAR, Ranked, RARConfig
from tokpress_jax.generators.sampling import SCHEDULES, Sampler
from tokpress_jax.generators.scale_wise import (
  ScaleWiseConfig,
  ScaleWiseGenerator,
)
from tokpress_jax.generators.search import (
  Found,
  beam_search,
  best_of,
  generator_prior,
  uniform_prior,
)

__all__ = [
  'RAR',
  'SCHEDULES',
  'BlockLoop',
  'Box',
  'CategoricalHead',
  'DiffusionHead',
  'Drawn',
  'FlexAR',
  'FlexARConfig',
  'Found',
  'GeneratorConfig',
  'MaskGIT',
  'MaskGITConfig',
  'MaskGen',
  'MaskGenConfig',
  'NextTokenConfig',
  'NextTokenGenerator',
  'Noised',
  'Order',
  'RARConfig',
  'Ranked',
  'RefineLoop',
  'Sampled',
  'Sampler',
  'ScaleWiseConfig',
  'ScaleWiseGenerator',
  'Text',
  'beam_search',
  'best_of',
  'drawn_tokens',
  'generator_prior',
  'keep',
  'reveal_counts',
  'sample',
  'text',
  'uniform_prior',
]
