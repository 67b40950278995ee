"""Inputs of super_tokens.npz."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'super_tokens.npz'

WIDTH, HEADS = 8, 2
# Name to (rows, columns) of the image, of a cell, and iterations.
CASES = {
  'even': ((8, 12), (4, 4), 1),
  'filled': ((7, 10), (2, 4), 1),
  'twice': ((8, 12), (2, 3), 2),
  'plain': ((3, 4), (1, 1), 1),
}
# Large weights, so that attention is far from a mean.
RULES = (('qkv', 3, 0),)


def inputs(name):
  """Images [2, D, H, W], and what gradients are taken along."""
  rng = np.random.default_rng([7, *CASES[name][0]])
  shape = (2, WIDTH, *CASES[name][0])
  return [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
