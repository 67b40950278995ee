"""The small tokenizers of titok.npz and one_d_piece.npz.

Sizes, weights and inputs, shared by the script that made the files and the
tests that read them.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

SIDE = 64  # of the images
# Width, layers and heads of the small stand-ins for the official sizes.
TOWERS = {'small': (32, 2, 2), 'base': (48, 3, 3), 'large': (64, 2, 4)}
# As `model.vq_model` of the official configs.
_LEGACY = {
  'codebook_size': 128,
  'token_size': 12,
  'use_l2_norm': True,
  'vit_enc_model_size': 'small',
  'vit_dec_model_size': 'small',
  'num_latent_tokens': 8,
  'finetune_decoder': True,
}
_DIRECT = {
  'vit_enc_model_size': 'base',
  'vit_dec_model_size': 'large',
  'num_latent_tokens': 6,
  'finetune_decoder': False,
  'is_legacy': False,
}
_VQ = {'codebook_size': 96, 'token_size': 16, 'use_l2_norm': False}
_VAE = {'quantize_mode': 'vae', 'token_size': 8}
_TEXT = {'text_context_length': 5, 'text_embed_dim': 24}
CASES = {
  'legacy': _LEGACY,
  'vq8k': _DIRECT | _VQ,
  'vae': _DIRECT | _VAE,
  'tatitok': _DIRECT | _VQ | _TEXT | {'clustering_vq': True},
  'tatitok_vae': _DIRECT | _VAE | _TEXT,
  'one_d_piece': _LEGACY | {'strict_length_assertion': False},
}
PREFIXES = (1, 3, 8)
# MaskGIT's VQGAN: its convolutions have a tenth of the released width.
VQGAN = {
  'channel_mult': [1, 1, 2, 2, 4],
  'num_resolutions': 5,
  'dropout': 0.0,
  'hidden_channels': 32,
  'num_channels': 3,
  'num_res_blocks': 2,
  'resolution': SIDE,
  'z_channels': 256,
}
RULES = (
  ('latent_token', 5, 0),
  ('positional_embedding', 5, 0),
  ('class_embedding', 5, 0),
  ('mask_token', 5, 0),
  ('in_proj_weight', 2, 0),
  ('ffn.2.weight', 8, 0),
  ('quantize.embedding', 12, 0),
)
# Statistics of the official modules, not weights.
FIXED = ('embed_prob',)


def inputs():
  """Images in [0, 1], a text's features, and noise for a Gaussian."""
  rng = np.random.default_rng(1)
  images = rng.uniform(0, 1, (2, 3, SIDE // 8, SIDE // 8))
  images = np.kron(images, np.ones((8, 8))).astype(np.float32)
  text = rng.standard_normal((2, 5, 24)).astype(np.float32)
  noise = rng.standard_normal((2, 8, 1, 6)).astype(np.float32)
  return images, text, noise


def tilted(x):
  """A weight with each number a tenth larger or smaller, at random.

  A convolution without a bias before a norm, and a codebook of unit vectors, do
  not change anything when they are scaled as a whole.
  """
  rng = np.random.default_rng(3)
  return x * rng.choice(np.array([0.9, 1.1], np.float32), x.shape)
