"""The inputs of merging.npz, drawn from seeds."""

import numpy as np

# Class token and patches, heads, width of a head, width of features.
VISIONZIP = {'patches': 41, 'heads': 3, 'head': 4, 'width': 6}
DOMINANT, CONTEXTUAL = 12, 5
RATIOS = (0.5, 0.8)  # of AngelSlim: what leaves; 10 / 64 of the rest is targets
PRUMERGE = {'patches': 576, 'heads': 2, 'head': 3, 'width': 6}
RECOVERABLE = {'patches': 144, 'heads': 2, 'head': 24, 'width': 48}
PLUS = {64: (67, 11), 128: (137, 6), 256: (288, 3)}  # to (budget, step)
SIDE = 12
# Rows and columns of crops, and (width, height) of the image.
CROPS = {'2x2': ((2, 2), (200, 140)), '1x3': ((1, 3), (500, 120))}
HIRED = ((0.2, 0.5), (0.35, 0.3))  # (rate, alpha)
AIM = {28: (2, 4), 27: (2, 4), 31: (2, 4, 8)}  # tokens, and their parts
DTD = {'frames': 5, 'rows': 2, 'columns': 2, 'before': 3, 'after': 2}
THRESHOLDS = (0.5, 0.1)
DYCOKE = (8, 6)
SHARE = 0.7  # of a compared frame's tokens that leave
MUSTDROP = 6
SEGPRUNER = {'patches': 40, 'tokens': 15}
MIXES = ((0.4, 0.6), (0.2, 0.25))  # (share of important tokens, lambda)


def draw(kind, *shape):
  """Normal numbers, float32; `kind` is the seed."""
  return np.random.default_rng((31, kind)).normal(size=shape).astype(np.float32)


def tower(name, rows=2):
  """Features, queries and keys of a layer, the class token first.

  Queries of the class token are long, so that its attention has outliers.
  """
  shape = globals()[name]
  tokens = 1 + shape['patches']
  heads = (rows, shape['heads'], tokens, shape['head'])
  seed = sum(map(ord, name))
  queries = draw(seed, *heads)
  queries[:, :, 0] *= 3
  features = draw(seed + 1, rows, tokens, shape['width'])
  return features, queries, draw(seed + 2, *heads)


def softmax(logits):
  """Over the last axis."""
  shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
  return shifted / shifted.sum(axis=-1, keepdims=True)


def logits_of(queries, keys):
  """The class token's scaled products [rows, heads, tokens]."""
  products = np.einsum('bad,band->ban', queries[:, :, 0], keys)
  return (products * queries.shape[-1] ** -0.5).astype(np.float32)


def text_scores():
  """Cosines of patches to a question, [2, patches]."""
  score = 0.12 * draw(40, 2, RECOVERABLE['patches'])
  more = np.abs(draw(41, 2, RECOVERABLE['patches']))
  score[:, ::9] += 0.4 + 0.3 * more[:, ::9]
  return score


def crops(name):
  """Features [1 + crops, SIDE^2, 3] and logits of two layers, 2 heads."""
  rows, columns = CROPS[name][0]
  number = 1 + rows * columns
  features = draw(50 + number, number, SIDE**2, 3)
  logits = draw(60 + number, 2, number, 2, 1 + SIDE**2)
  # More is seen at the lower right.
  bump = np.linspace(-1, 1, SIDE)
  hill = (bump[:, None] + 2 * bump[None]).reshape(-1)
  logits[:, 0, :, 1:] += hill.astype(np.float32)
  return features, logits


def unpadded(name):
  """What is no padding, [rows SIDE, columns SIDE] bool (LLaVA's anyres)."""
  (rows, columns), (width, height) = CROPS[name]
  mask = np.zeros((rows * SIDE, columns * SIDE), bool)
  if width / height > columns / rows:
    new = int(height * (columns * SIDE / width))
    pad = (rows * SIDE - new) // 2
    mask[pad : rows * SIDE - pad] = True
  else:
    new = int(width * (rows * SIDE / height))
    pad = (columns * SIDE - new) // 2
    mask[:, pad : columns * SIDE - pad] = True
  return mask


def video(kind, frames, tokens, width=6):
  """[frames, tokens, width], each frame like the one before."""
  x = draw(kind, frames, tokens, width)
  for i in range(1, frames):
    x[i] = 0.7 * x[i - 1] + 0.7 * x[i]
  return x


def spatial():
  """[1, 1 + MUSTDROP^2, 5], alike in some windows of 3 x 3."""
  x = draw(70, MUSTDROP, MUSTDROP, 5)
  x[:3, 3:] = x[0, 3] + 0.1 * x[:3, 3:]
  x[3:, :3] = x[3, 0] + 0.2 * x[3:, :3]
  flat = x.reshape(1, MUSTDROP**2, 5)
  return np.concatenate([draw(71, 1, 1, 5), flat], axis=1)
