"""The FlexToks and autoencoders of flextok.npz.

Sizes, weights and inputs, shared by the script that made the file and the tests
that read it.
"""

import pathlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent

# Latent channels, sides of latents, tokens, width, depth and features of a
# head; `encoder` and `decoder` in turn. `images` of the autoencoder's pixels.
SMALL = {
  'batch': 2,
  'channels': 4,
  'grid': 8,
  'tokens': 48,
  'width': (64, 96),
  'depth': (2, 3),
  'head': 16,
  'max_timestep': 1.0,
}
# As released, but for its autoencoder, which the case 'vae' has.
D12 = {
  'batch': 1,
  'channels': 16,
  'grid': 32,
  'tokens': 256,
  'width': (768, 768),
  'depth': (12, 12),
  'head': 64,
  'max_timestep': 1000.0,
}
CASES = {'small': SMALL, 'd12': D12}
PATCH = 2
LEVELS = (8, 8, 8, 5, 5, 5)
# Of the autoencoders: widths of the levels, latent channels, side of images.
VAES = {
  'vae_small': {'widths': (32, 32, 64), 'channels': 4, 'side': 32},
  'vae': {'widths': (128, 256, 512, 512), 'channels': 16, 'side': 64},
}
SCALING = 0.625
LENGTHS = {'small': (5, 48), 'd12': (37,)}
TIME = 0.7
STEPS, GUIDANCE = 4, 7.5
# The encoder's input; chosen so that no value lies close to a rounding.
SEED = {'small': 3, 'd12': 3}
RULES = (
  ('registers', 5, 0),
  ('posembs', 5, 0),
  ('dropout_mask_token', 5, 0),
  ('nullcond', 5, 0),
)
# Sines, which are no weights.
FIXED = ('enc_posemb_module.posembs', 'dec_patches_posemb_module.posembs')


# A bias of all keys moves all logits of a query alike: nothing.
IDLE = ('to_k.bias',)


def latents(name):
  """Clean latents and noise [B, C, H, W]."""
  c = CASES[name]
  rng = np.random.default_rng(SEED[name])
  shape = (c['batch'], c['channels'], c['grid'], c['grid'])
  return rng.standard_normal((2, *shape)).astype(np.float32)


def images(name):
  """Pixels [2, 3, H, W] in [-1, 1], and noise for a posterior."""
  c = VAES[name]
  rng = np.random.default_rng(2)
  x = rng.uniform(-1, 1, (2, 3, c['side'] // 4, c['side'] // 4))
  return np.kron(x, np.ones((4, 4))).astype(np.float32)


def thin(name, x):
  """Some of the numbers of an array whose last two axes are places."""
  return x if name == 'small' else x[..., ::3, ::3]


def tilted(x):
  """A weight with each number a tenth larger or smaller, at random.

  A matrix before a norm does not change anything when it is scaled as a whole.
  """
  rng = np.random.default_rng(3)
  return x * rng.choice(np.array([0.9, 1.1], np.float32), x.shape)
