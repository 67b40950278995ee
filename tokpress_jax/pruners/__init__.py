"""Pruners: which tokens can the next layer do without?

pruner = score, budget, select or merge, positions. Every primitive is a pure
function of arrays; a method is a few lines over them.
"""

from tokpress_jax.pruners.base import Pruner, PrunerProtocol
from tokpress_jax.pruners.budgets import (
  Budget,
  Bytes,
  Remove,
  cache_bytes,
  linear_schedule,
)
from tokpress_jax.pruners.flops import layer_flops, model_flops
from tokpress_jax.pruners.mergers import bipartite
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
from tokpress_jax.pruners.selectors import selection, spaced, top
from tokpress_jax.pruners.tome import ToMe, tome_plan
from tokpress_jax.pruners.topk import (
  Random,
  Stride,
  TopAttention,
  TopK,
  TopNorm,
)

__all__ = [
  'Budget',
  'Bytes',
  'Pruner',
  'PrunerProtocol',
  'Random',
  'Remove',
  'Stride',
  'ToMe',
  'TopAttention',
  'TopK',
  'TopNorm',
  'apply',
  'bipartite',
  'cache_bytes',
  'compose',
  'dense',
  'identity',
  'layer_flops',
  'linear_schedule',
  'log_mass_bias',
  'model_flops',
  'reduce_signals',
  'reduce_tokens',
  'selection',
  'spaced',
  'tome_plan',
  'top',
  'unmerge',
]
