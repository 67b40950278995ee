"""Weights for a benchmark: time does not depend on them, overflow does."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np


def redraw(shapes: Any, *, seed: int) -> Any:
  """Draws weights so that every layer matters and nothing overflows.

  Args:
    shapes: a tree of anything with a shape, as `jax.eval_shape` gives it.
    seed: of the draw.

  Returns:
    The tree as float32 NumPy arrays.
  """
  rng = np.random.default_rng(seed)

  def draw(path: Any, like: Any) -> np.ndarray:
    names = [getattr(key, 'key', '') for key in path]
    x = rng.standard_normal(like.shape, np.float32)
    if names[-1] == 'kernel':
      stacked = 'layers' in names
      fan_in = np.prod(like.shape[int(stacked) : -1])
      return x * np.float32(fan_in**-0.5)
    if names[-1] == 'scale':
      return 1 + np.float32(0.1) * x
    return np.float32(0.2) * x

  return jax.tree_util.tree_map_with_path(draw, shapes)
