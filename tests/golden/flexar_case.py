"""The small FlexARs of flexar.npz: sizes, weights and inputs.

Shared by the script that made the file and the test that reads it.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

# Heads have 64 features, as the released ones.
SMALL = {
  'codes': 24,
  'classes': 5,
  'tokens': 8,
  'width': 128,
  'heads': 2,
  'layers': 2,
  'text': 12,
}
KINDS = ('text', 'class')
RULES = (
  ('head.linear.weight', 3, 0),
  ('embedding', 3, 0),
  ('sos_token', 3, 0),
  ('qkv.weight', 1.5, 0),
  ('cross_attn', 2, 0),
  ('text_encoder', 2, 0),
)
GUIDANCE = {'text': 3.0, 'class': 1.5}


def inputs():
  """Codes, labels, texts' features and which count, and Gumbel noise.

  The last label is no class; the features' last row is the empty text's.
  """
  c, rng = SMALL, np.random.default_rng(1)
  codes = rng.integers(c['codes'], size=(3, c['tokens']))
  labels = np.array([0, 3, c['classes']])
  features = rng.standard_normal((4, 5, c['text'])).astype(np.float32)
  valid = np.arange(5)[None] < np.array([[5], [3], [2], [1]])
  noise = rng.gumbel(size=(3, c['tokens'], c['codes'])).astype(np.float32)
  return codes, labels, features, valid, noise
