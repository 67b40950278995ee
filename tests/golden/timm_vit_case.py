"""Weights and inputs of timm_vit.npz.

Shared by the script that made the file and the test that reads it.
"""

import functools
import pathlib

import numpy as np
from redraw import redraw, unpack

GOLDEN = pathlib.Path(__file__).with_name('timm_vit.npz')

SIZE = {
  'img_size': 12,
  'patch_size': 4,
  'embed_dim': 128,
  'depth': 3,
  'num_heads': 2,
  'mlp_ratio': 1.5,
  'num_classes': 7,
}
NAMES = ('vit', 'deit')
# What the test allows, in deviations of the official output.
TOLERANCE = 1e-5
# Queries and keys such that attention is not flat.
RULES = (('qkv.weight', 2, 0),)


@functools.cache
def golden():
  """The file's arrays by name."""
  return dict(np.load(GOLDEN))


def released(name):
  """Released name -> array, all redrawn."""
  return redraw(unpack(golden()[f'{name}_shapes']), rules=RULES)


def images():
  """Two images [2, 12, 12, 3] in [-1, 1], as the network takes them."""
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (2, 12, 12, 3)).astype(np.float32)
