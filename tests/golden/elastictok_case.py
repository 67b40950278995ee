"""The small ElasticToks of elastictok.npz: sizes, weights and inputs.

Shared by the script that made the file and the test that reads it.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

SIDE, FRAMES, BLOCKS, BATCH = 8, 4, 3, 2
# As the official config; the patches are of 4 x 4 pixels here.
_COMMON = {
  'hidden_size': 32,
  'intermediate_size': 48,
  'num_encoder_layers': 2,
  'num_decoder_layers': 3,
  'num_attention_heads': 2,
  'rms_norm_eps': 1e-5,
  'frames_per_block': FRAMES,
  'scan_attention': False,
  'scan_mlp': False,
  'scan_layers': True,
  'lpips_loss_ratio': 0.0,
}
CASES = {
  'fsq': _COMMON
  | {
    'patch_size': (1, 4, 4),
    'bottleneck_type': 'fsq',
    'fsq_quant_levels': (8, 8, 8, 5, 5, 5),
    'min_toks': 2,
    'max_toks': 16,
    'max_sequence_length': 48,
    'theta': 5e7,
  },
  'vae': _COMMON
  | {
    'patch_size': (2, 4, 4),
    'bottleneck_type': 'vae',
    'vae_bottleneck_dim': 8,
    'min_toks': 1,
    'max_toks': 8,
    'max_sequence_length': 24,
    'theta': 5e6,
  },
}
# Tokens that the official mask sampler is asked for, [B, K].
ASKED = {
  'fsq': np.array([[3, 15, 9], [16, 6, 2]]),
  'vae': np.array([[1, 7, 4], [8, 3, 2]]),
}
TRIED = 6  # lengths of the linear search
RULES = (
  ('norm', 1, 1),
  ('ln_f', 1, 1),
  ('_embed', 5, 0),
  ('pre_quant', 1.5, 0),
  ('post_quant', 1, 0),
)


def inputs():
  """Videos uint8 [B, T, H, W, 3]: coarse squares that move."""
  rng = np.random.default_rng(1)
  shape = (BATCH, BLOCKS * FRAMES, SIDE // 2, SIDE // 2, 3)
  coarse = rng.integers(0, 256, shape, dtype=np.uint8)
  return np.kron(coarse, np.ones((2, 2, 1), np.uint8))
