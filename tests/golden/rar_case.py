"""The small RAR of rar.npz: sizes, weights and inputs.

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
  'heads': 4,
  'layers': 2,
  'hidden': 96,
}
RULES = (
  ('lm_head.weight', 3, 0),
  ('embeddings.weight', 6, 0),
  ('qkv', 2, 0),
  ('embed', 3, 0),
  ('cls_token', 3, 0),
)
# How codes are drawn; the exponent of the guidance is RAR-B's.
SAMPLING = {
  'guidance_scale': 4.0,
  'guidance_scale_pow': 2.75,
  'randomize_temperature': 1.5,
}


def inputs(c, batch=3):
  """Codes, labels, orders (the position at each slot) and noise [B, N, V].

  The last label is no class; the first order is raster, the others random.
  """
  rng = np.random.default_rng(1)
  codes = rng.integers(c['codes'], size=(batch, c['tokens']))
  labels = np.array([0, 3, c['classes']])[:batch]
  orders = np.stack([rng.permutation(c['tokens']) for _ in range(batch)])
  orders[0] = np.arange(c['tokens'])
  noise = rng.gumbel(size=(batch, c['tokens'], c['codes']))
  return codes, labels, orders, noise.astype(np.float32)
