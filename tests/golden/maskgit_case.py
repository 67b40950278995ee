"""The small masked generators of maskgit.npz: sizes, weights and inputs.

Shared by the script that made the file and the test that reads it.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

SMALL = {
  'codes': 24,
  'classes': 5,
  'tokens': 9,
  'width': 64,
  'heads': 16,
  'layers': 2,
  'hidden': 96,
}
NETWORKS = ('bert', 'uvit')
RULES = (
  ('embeddings.weight', 6, 0),
  ('word_embeddings', 6, 0),
  ('lm_head.weight', 3, 0),
  ('query', 3, 0),
  ('key', 3, 0),
  ('qkv', 2, 0),
)
# How codes are drawn, as the official recipes of the two networks differ.
SAMPLING = {
  'bert': {
    'guidance_scale': 2.0,
    'guidance_decay': 'linear',
    'randomize_temperature': 2.0,
    'softmax_temperature_annealing': True,
    'num_sample_steps': 4,
  },
  'uvit': {
    'guidance_scale': 3.0,
    'guidance_decay': 'power-cosine',
    'randomize_temperature': 1.5,
    'softmax_temperature_annealing': False,
    'num_sample_steps': 6,
  },
}


def inputs(c, batch=3):
  """Codes, some masked, labels, and noise of each step: [S, B, N, V + 1]."""
  rng = np.random.default_rng(1)
  codes = rng.integers(c['codes'] + 1, size=(batch, c['tokens']))
  codes[:, 0] = c['codes']
  labels = np.array([0, 3, c['classes']])[:batch]  # the last is no class
  noise = rng.gumbel(size=(8, batch, c['tokens'], c['codes'] + 1))
  return codes, labels, noise.astype(np.float32)
