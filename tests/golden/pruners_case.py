"""Inputs of pruners.npz, drawn from seeds."""

import numpy as np

DIFFRATE = {'tokens': 12, 'prune': 9, 'merge': 6}


def draw(kind, *shape):
  """Normal numbers, float32; `kind` is the seed."""
  return np.random.default_rng((20, kind)).normal(size=shape).astype(np.float32)


def features():
  """[2, 17, 6], a class token first."""
  return draw(0, 2, 17, 6)


def metric():
  """[2, 17, 5] with a common part, so that energies differ in sign."""
  return draw(1, 2, 17, 5) + 0.5


def attention():
  """[2, 3, 17] of the class token."""
  return np.exp(draw(2, 2, 3, 17))


def mass():
  """[2, 17], whole numbers."""
  drawn = np.random.default_rng((20, 3)).integers(1, 4, (2, 17))
  return drawn.astype(np.float32)


def logits():
  """[2, 16] of the candidates for pruning and merging to 16 tokens."""
  return draw(4, 2, 16)


def mask():
  """[17], what an earlier layer would have left."""
  return (np.arange(17) < 15).astype(np.float32)


def masked_attention():
  """The same where an earlier layer would have left nothing to attend to."""
  return attention() * np.maximum(mask(), np.float32(1e-6))
