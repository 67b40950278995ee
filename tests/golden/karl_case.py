"""The small tokenizers of karl.npz: sizes, inputs and what is asked for."""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'karl.npz'

SIDE, PATCH = 32, 2  # The official class takes 16 x 16 patches.
TOKENS = 24
# Width, layers, heads. The official class needs as many features of the VQGAN
# as there are patches, 256.
ENCODER = (288, 2, 2)
DECODER = (32, 2, 4)
VQGAN = {
  'n_embed': 64,
  'embed_dim': 256,
  'ddconfig': {
    'double_z': False,
    'z_channels': 256,
    'resolution': SIDE,
    'in_channels': 3,
    'out_ch': 3,
    'ch': 32,
    'ch_mult': [1, 2],
    'num_res_blocks': 2,
    'attn_resolutions': [],
    'dropout': 0.0,
  },
}
# Latents, and the loss that is asked for.
ASKED = ((24, 0.05), (24, 0.3), (9, 0.001), (24, 0.5))
CASES = {'quantized': True, 'continuous': False}
RULES = (
  ('base_tokenizer.vqgan.quantize', 4, 0),
  ('quantize.embedding', 12, 0),
  ('latent_tokens', 5, 0),
  ('positional_embedding', 5, 0),
  ('rec_loss_embeddings', 5, 0),
  ('mask_token', 5, 0),
  ('in_proj_weight', 2, 0),
  ('halting_mlp.2.weight', 30, 0),
  ('halting_mlp.2.bias', 1, 1),
  ('ffn.2.weight', 8, 0),
)


def inputs():
  """Images in [0, 1]."""
  rng = np.random.default_rng(1)
  images = rng.uniform(0, 1, (3, 3, SIDE // 4, SIDE // 4))
  return np.kron(images, np.ones((4, 4))).astype(np.float32)


def tilted(x):
  """A weight with each number a tenth larger or smaller, at random."""
  rng = np.random.default_rng(3)
  return x * rng.choice(np.array([0.9, 1.1], np.float32), x.shape)
