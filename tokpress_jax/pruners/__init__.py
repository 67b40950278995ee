"""Pruners: which tokens can the next layer do without?

pruner = score, budget, select or merge, positions. Every primitive is a pure
function of arrays; a method is a few lines over them. The parts by kind:
`scores`, `similarities`, `selectors`, `schedules`, `allocators`. Of your own:
`testing.check_pruner` asks for what every pruner promises, `find.find_pruner`
takes a class from a file.
"""

from tokpress_jax.pruners import (
  allocators,
  schedules,
  scores,
  selectors,
  similarities,
)
from tokpress_jax.pruners.base import Pruner, PrunerProtocol, unread
from tokpress_jax.pruners.budgets import (
  Budget,
  Bytes,
  Remove,
  cache_bytes,
  linear_schedule,
)
from tokpress_jax.pruners.crop_layouts import place_crops
from tokpress_jax.pruners.crops import join_crops
from tokpress_jax.pruners.flops import layer_flops, model_flops
from tokpress_jax.pruners.inside_vit import (
  DiffRate,
  EveryKth,
  LearnedRates,
  PiToMe,
  RandomToMe,
  SemanticConfig,
  SemanticGroup,
  SemanticPruner,
  SemanticTokens,
  SuperTokenAttention,
  TokenFuser,
  TokenLearner,
  TokenLearnerConv,
  TokenTransforming,
  ToMe,
  diffrate_plan,
  pitome_plan,
  tome_plan,
)
from tokpress_jax.pruners.mergers import (
  bipartite,
  dpc_knn,
  knn_weighted,
  kth_bipartite,
  nearest_kept,
  random_bipartite,
  residual_token,
  segments,
  soft_assign,
  uniform_targets,
  windows,
)
from tokpress_jax.pruners.plans import PlanConfig
from tokpress_jax.pruners.positions import Members
from tokpress_jax.pruners.reduction import (
  apply,
  compose,
  dense,
  identity,
  log_mass_bias,
  reduce_signals,
  reduce_tokens,
  unmerge,
)
from tokpress_jax.pruners.selecting import Selecting, TopK
from tokpress_jax.pruners.selectors import selection, spaced, top
from tokpress_jax.pruners.topk import (
  Random,
  Stride,
  TopAttention,
  TopNorm,
)

__all__ = [
  'Budget',
  'Bytes',
  'DiffRate',
  'EveryKth',
  'LearnedRates',
  'Members',
  'PiToMe',
  'PlanConfig',
  'Pruner',
  'PrunerProtocol',
  'Random',
  'RandomToMe',
  'Remove',
  'Selecting',
  'SemanticConfig',
  'SemanticGroup',
  'SemanticPruner',
  'SemanticTokens',
  'Stride',
  'SuperTokenAttention',
  'ToMe',
  'TokenFuser',
  'TokenLearner',
  'TokenLearnerConv',
  'TokenTransforming',
  'TopAttention',
  'TopK',
  'TopNorm',
  'allocators',
  'apply',
  'bipartite',
  'cache_bytes',
  'compose',
  'dense',
  'diffrate_plan',
  'dpc_knn',
  'identity',
  'join_crops',
  'knn_weighted',
  'kth_bipartite',
  'layer_flops',
  'linear_schedule',
  'log_mass_bias',
  'model_flops',
  'nearest_kept',
  'pitome_plan',
  'place_crops',
  'random_bipartite',
  'reduce_signals',
  'reduce_tokens',
  'residual_token',
  'schedules',
  'scores',
  'segments',
  'selection',
  'selectors',
  'similarities',
  'soft_assign',
  'spaced',
  'tome_plan',
  'top',
  'uniform_targets',
  'unmerge',
  'unread',
  'windows',
]
