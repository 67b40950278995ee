"""The small MaskGens of maskgen.npz: sizes, weights and inputs.

Shared by the script that made the file and the test that reads it.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

SMALL = {
  'width': 64,
  'heads': 16,
  'layers': 3,
  'text_tokens': 4,
  'text_features': 20,
  'score_features': 8,
  'codes': 24,
  'tokens': 7,
  'channels': 3,
  'scale': 0.7525,
  'head_width': 32,
  'head_layers': 2,
  'draws': 2,
}
RULES = (
  ('embeddings.weight', 0.5, 0),
  ('final_layer.linear', 0.3, 0),
  ('pos_embed', 3, 0),
  ('to_q.weight', 3, 0),
  ('to_k.weight', 3, 0),
  ('add_k_proj.weight', 3, 0),
  ('add_q_proj.weight', 3, 0),
  ('to_k.bias', 3, 0),
  ('add_k_proj.bias', 3, 0),
)
# How codes and vectors are drawn.
SCORE = 6.5
CODES = {
  'guidance_scale': 3.0,
  'randomize_temperature': 1.5,
  'num_sample_steps': 5,
}
VECTORS = {'cfg': 2.5, 'temperature': 0.9, 'num_iter': 5}
DIFFUSION_STEPS = 100


def texts(c=SMALL, batch=3):
  """Features, pooled, those of the empty text, and scores."""
  rng = np.random.default_rng(1)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  m, f = c['text_tokens'], c['text_features']
  return {
    'features': draw(batch, m, f),
    'pooled': draw(batch, f),
    'null_features': draw(m, f),
    'null_pooled': draw(f),
    'score': np.linspace(3, 8.5, batch).astype(np.float32),
  }


def code_inputs(c=SMALL, batch=3):
  """Codes, some masked, and noise of each step: [S, B, N, V + 1]."""
  rng = np.random.default_rng(2)
  codes = rng.integers(c['codes'] + 1, size=(batch, c['tokens']))
  codes[:, 0] = c['codes']
  steps = CODES['num_sample_steps']
  noise = rng.gumbel(size=(steps, batch, c['tokens'], c['codes'] + 1))
  return codes, noise.astype(np.float32)


def vector_inputs(c=SMALL, batch=3):
  """What the training pass over vectors reads, scaled already."""
  rng = np.random.default_rng(3)
  shape = (batch, c['tokens'])
  masked = np.zeros(shape, bool)
  for row in masked:
    row[rng.permutation(c['tokens'])[:4]] = True
  time = rng.integers(1000, size=(*shape, c['draws']))
  values = rng.normal(size=(*shape, c['channels']))
  noise = rng.normal(size=(*time.shape, c['channels']))
  # The first step has a loss of its own, whose tails are a matter of rounding.
  time[:, ::3, 0] = 0
  noise[:, ::3, 0] *= 0.3
  return {
    'values': values.astype(np.float32),
    'masked': masked,
    'time': time,
    'noise': noise.astype(np.float32),
  }


def vector_noise(c=SMALL, batch=3):
  """Orders (the position at each slot, the last is first) and [B, N, T, C]."""
  rng = np.random.default_rng(4)
  orders = np.stack([rng.permutation(c['tokens']) for _ in range(batch)])
  shape = (batch, c['tokens'], DIFFUSION_STEPS, c['channels'])
  return orders, rng.normal(size=shape).astype(np.float32)
