"""Methods that merge or drop tokens between the layers of a vision tower."""

from tokpress_jax.pruners.inside_vit.diffrate import DiffRate, diffrate_plan
from tokpress_jax.pruners.inside_vit.learned_rates import LearnedRates
from tokpress_jax.pruners.inside_vit.pitome import PiToMe, pitome_plan
from tokpress_jax.pruners.inside_vit.semantic_pruner import SemanticPruner
from tokpress_jax.pruners.inside_vit.semantic_tokens import (
  SemanticConfig,
  SemanticGroup,
  SemanticTokens,
)
from tokpress_jax.pruners.inside_vit.super_tokens import SuperTokenAttention
from tokpress_jax.pruners.inside_vit.token_learner import (
  TokenFuser,
  TokenLearner,
  TokenLearnerConv,
)
from tokpress_jax.pruners.inside_vit.token_transforming import TokenTransforming
from tokpress_jax.pruners.inside_vit.tome import (
  EveryKth,
  RandomToMe,
  ToMe,
  tome_plan,
)

__all__ = [
  'DiffRate',
  'EveryKth',
  'LearnedRates',
  'PiToMe',
  'RandomToMe',
  'SemanticConfig',
  'SemanticGroup',
  'SemanticPruner',
  'SemanticTokens',
  'SuperTokenAttention',
  'ToMe',
  'TokenFuser',
  'TokenLearner',
  'TokenLearnerConv',
  'TokenTransforming',
  'diffrate_plan',
  'pitome_plan',
  'tome_plan',
]
