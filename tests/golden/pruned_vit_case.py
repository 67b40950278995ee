"""Weights, inputs and schedules of pruned_vit.npz.

Shared by the script that made the file and the test that reads it.
"""

import functools
import pathlib

import numpy as np
from redraw import redraw, unpack

GOLDEN = pathlib.Path(__file__).with_name('pruned_vit.npz')

SIZE = {
  'img_size': 20,
  'patch_size': 4,
  'embed_dim': 128,
  'depth': 3,
  'num_heads': 2,
  'mlp_ratio': 1.5,
  'num_classes': 7,
}
# What the test allows, in deviations of the official logits.
TOLERANCE = 1e-5
# Queries and keys such that attention is not flat.
RULES = (('qkv.weight', 1.4, 0),)

# ToMe's r as its `parse_r` takes it: a number (too large for the last layers,
# where it is clipped), a falling schedule, a list.
TOME = {
  'constant': 8,
  'falling': (5, -1.0),
  'listed': [0, 7, 3],
}
# Tokens left by DiffRate after pruning and after merging, class token included.
DIFFRATE = {
  'both': ([26, 22, 13], [26, 19, 9]),
  'pruned': ([26, 19, 11], [26, 19, 11]),
  'merged': ([26, 26, 24], [26, 20, 12]),
}
PITOME = {'half': 0.5, 'most': 0.8}
PITOME_REMOVED = 4  # OpenToMe's r


@functools.cache
def golden():
  """The file's arrays by name."""
  return dict(np.load(GOLDEN))


def released(name):
  """Released name -> array, all redrawn."""
  return redraw(unpack(golden()[f'{name}_shapes']), rules=RULES)


def images():
  """Three images [3, 20, 20, 3] in [-1, 1], as the network takes them."""
  rng = np.random.default_rng(0)
  return rng.uniform(-1, 1, (3, 20, 20, 3)).astype(np.float32)
