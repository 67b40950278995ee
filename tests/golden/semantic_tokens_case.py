"""Inputs of semantic_tokens.npz."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'semantic_tokens.npz'

WIDTH, HEADS, GRID, WINDOW = 8, 2, 14, 7
# Name to (semantic tokens along a side of a window, options that are on); the
# options are called as ours, with the official name.
OPTIONS = {
  'residual': 'shortcut',
  'conv_position': 'use_conv_pos',
  'global_tokens': 'use_global',
  'relative': 'relative_pos',
}
CASES = {'released': (3, ()), 'paper': (4, ('residual', 'global_tokens'))}
CASES['all'] = (3, tuple(OPTIONS))
WITH_GRADIENT = 'all'
# Gates about 1, attention far from a mean, biases that matter.
RULES = (
  ('layer_scale', 1, 1),
  ('.q.weight', 2, 0),
  ('bias_table', 5, 0),
  ('semantic_token2', 3, 0),
)


def inputs(name):
  """Image tokens [1, 196, D], and what gradients are taken along."""
  rng = np.random.default_rng([11, *CASES[name][:1]])
  shape = (1, GRID**2, WIDTH)
  return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
