"""The small VAR of var.npz and mvar.npz: sizes, weights and inputs.

Shared by the script that made the files and the tests that read them.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

SMALL = {
  'codes': 48,
  'features': 8,
  'channels': 32,
  'classes': 5,
  'depth': 3,
  'width': 64,
  'heads': 4,
  'scales': (1, 2, 3, 4, 6),
  'top_k': 20,
  'top_p': 0.9,
  'guidance': 1.5,
  'refine': 3,
  'kernel': 3,
}
RULES = (
  ('scale_mul', 15, 1.5),  # some above the clamp at log 100
  ('class_emb', 6, 0),
  ('word_embed.weight', 2, 0),
  ('head.weight', 4, 0),
  ('ada_lin', 1.5, 0),
  ('quantize.embedding', 2, 0),
)
# Constants of the official modules, not weights.
FIXED = ('ema_vocab_hit', 'zero_k_bias', 'lvl_1L', 'attn_bias_for_masking')


def inputs(c, batch):
  """Images, labels and the two kinds of noise."""
  rng = np.random.default_rng(1)
  side, tokens = 16 * c['scales'][-1], sum(s * s for s in c['scales'])
  images = rng.uniform(-1, 1, (batch, 3, side // 8, side // 8))
  images = np.kron(images, np.ones((8, 8))).astype(np.float32)
  labels = rng.integers(c['classes'], size=batch)
  noise = rng.gumbel(size=(2, batch, tokens, c['codes'])).astype(np.float32)
  return images, labels, noise


def some_codes(c):
  rng = np.random.default_rng(2)
  tokens = sum(s * s for s in c['scales'])
  return rng.integers(c['codes'], size=(2, tokens))


def is_fixed(name):
  return any(part in name for part in FIXED)
