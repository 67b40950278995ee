"""Selectors: which tokens stay, as a mask, and the reduction of a mask.

Each selector takes `count` [B], the number of unprotected tokens that a row
keeps, `valid` and `protected` [B, N]; protected tokens stay beside the count.
It gives `kept` [B, N] and mostly also `rank` [B, N], the order in which tokens
were taken, protected ones first; `selection` makes a reduction of both.

basic       top-k, even spacing, `selection`
grouped     top-k per owner, crop, head or chunk; whole chunks
counts      how many tokens pass a threshold, percentile, mass, outlier test
greedy      farthest point, max-sum, relevance and diversity
covering    what covers most of the rest
duplicates  least like some pivots; without near-duplicates
grids       tokens beside those of a mask
staged      one selector after another, within one budget
"""

from tokpress_jax.pruners.selectors.basic import invert, selection, spaced, top
from tokpress_jax.pruners.selectors.counts import (
  above,
  local_outliers,
  outliers,
  past_percentile,
  tail,
  top_mass,
  within,
)
from tokpress_jax.pruners.selectors.covering import coverage
from tokpress_jax.pruners.selectors.duplicates import (
  least_similar,
  without_duplicates,
)
from tokpress_jax.pruners.selectors.greedy import (
  farthest,
  relevant_and_diverse,
)
from tokpress_jax.pruners.selectors.grids import Edges, dilate
from tokpress_jax.pruners.selectors.grouped import (
  chunks,
  top_chunks,
  top_grouped,
)
from tokpress_jax.pruners.selectors.staged import Stage, remaining, staged

__all__ = [
  'Edges',
  'Stage',
  'above',
  'chunks',
  'coverage',
  'dilate',
  'farthest',
  'invert',
  'least_similar',
  'local_outliers',
  'outliers',
  'past_percentile',
  'relevant_and_diverse',
  'remaining',
  'selection',
  'spaced',
  'staged',
  'tail',
  'top',
  'top_chunks',
  'top_grouped',
  'top_mass',
  'within',
  'without_duplicates',
]
