"""Scores: how much each token is worth, [B, N], higher is kept.

Scores say nothing about protection or budgets: selectors do. A score that
weighs tokens against each other takes `valid`, and a padded row scores its
valid tokens as it would alone; what it says about padding is arbitrary.

attention  what queries pay to each token, rows, columns, PageRank
vectors    lengths, distance from the mean, leverage
text       similarity to a text, which words count
change     what a layer, a frame or a window changes
fixed      random, stride, recency
combine    normalise, pool, group, accumulate, protect, perturb
relaxed    what a score becomes where it is learned
"""

from tokpress_jax.pruners.scores.attention import (
  attend,
  attention_column,
  attention_row,
  attention_rows,
  pagerank,
  strongest_heads,
  unsplit_attention,
  visible_queries,
)
from tokpress_jax.pruners.scores.change import (
  temporal_change,
  transition,
  window_similarity,
  zeroth_order,
)
from tokpress_jax.pruners.scores.combine import (
  ema,
  forbid,
  group_reduce,
  normalise,
  perturb,
  pool,
  protect,
)
from tokpress_jax.pruners.scores.fixed import random, recency, sinks, stride
from tokpress_jax.pruners.scores.relaxed import (
  binary_concrete,
  soft_top,
  straight_through,
)
from tokpress_jax.pruners.scores.text import (
  rater_weights,
  raters,
  text_prior,
  text_similarity,
)
from tokpress_jax.pruners.scores.vectors import (
  key_difference,
  leverage,
  norm,
)

__all__ = [
  'attend',
  'attention_column',
  'attention_row',
  'attention_rows',
  'binary_concrete',
  'ema',
  'forbid',
  'group_reduce',
  'key_difference',
  'leverage',
  'norm',
  'normalise',
  'pagerank',
  'perturb',
  'pool',
  'protect',
  'random',
  'rater_weights',
  'raters',
  'recency',
  'sinks',
  'soft_top',
  'straight_through',
  'stride',
  'strongest_heads',
  'temporal_change',
  'text_prior',
  'text_similarity',
  'transition',
  'unsplit_attention',
  'visible_queries',
  'window_similarity',
  'zeroth_order',
]
