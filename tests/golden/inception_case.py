"""Weights and inputs of inception.npz.

Shared by the script that made the file and the tests that read it.
"""

import functools
import pathlib

import numpy as np
from redraw import redraw, unpack

GOLDEN = pathlib.Path(__file__).with_name('inception.npz')

# Kernels and offsets such that activations neither grow nor vanish over the
# depth; variances are positive.
RULES = (
  ('running_var', 1, 1),
  ('running_mean', 2, 0),
  ('bn.bias', 2, 0),
  ('conv.weight', 1.25, 0),
)
IMAGES = (2, 40, 57, 3)  # not square, and smaller than 299
LAYERS = ('64', '192', '768', '2048', 'logits_unbiased', 'logits', 'spatial')
# What the test allows, in standard deviations of each layer. The spatial
# features are not averaged over places; their own float32 is off by 3e-5.
TOLERANCE = {name: 1e-4 if name == 'spatial' else 2e-5 for name in LAYERS}


@functools.cache
def golden():
  """The file's arrays by name."""
  return dict(np.load(GOLDEN))


@functools.cache
def released():
  """Released name -> array, all redrawn."""
  return redraw(unpack(golden()['shapes']), rules=RULES)


def images(shape=IMAGES, *, seed=0):
  """Draws uint8 images."""
  return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def features(*, seed=0):
  """Draws what scores are computed of: samples, reference, logits.

  Returns:
    float32 [300, 48] and [200, 48], correlated, skewed and not negative, as
    pooled features are; [300, 40].
  """
  rng = np.random.default_rng(seed)
  mix = rng.normal(size=(48, 48)) / 7
  draw = lambda n, shift: np.maximum(rng.normal(size=(n, 48)) @ mix + shift, 0)
  samples, reference = draw(300, 0.3), draw(200, 0.4)
  logits = 2 * rng.normal(size=(300, 40))
  return [np.float32(x) for x in (samples, reference, logits)]
