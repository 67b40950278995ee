"""Mergers: which tokens join which, as a reduction.

Each is a pure function of arrays that gives a `Reduction`; `apply` moves
features by it in one of its modes. Protected tokens stay as they are.
"""

from tokpress_jax.pruners.mergers.bipartite import (
  bipartite,
  kth_bipartite,
  random_bipartite,
)
from tokpress_jax.pruners.mergers.dpc_knn import dpc_knn
from tokpress_jax.pruners.mergers.grouped import grouped
from tokpress_jax.pruners.mergers.nearest import (
  closest,
  nearest_kept,
  uniform_targets,
)
from tokpress_jax.pruners.mergers.residual import residual_token
from tokpress_jax.pruners.mergers.soft import (
  beside_protected,
  knn_weighted,
  soft_assign,
)
from tokpress_jax.pruners.mergers.windows import segments, windows

__all__ = [
  'beside_protected',
  'bipartite',
  'closest',
  'dpc_knn',
  'grouped',
  'knn_weighted',
  'kth_bipartite',
  'nearest_kept',
  'random_bipartite',
  'residual_token',
  'segments',
  'soft_assign',
  'uniform_targets',
  'windows',
]
