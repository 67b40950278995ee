"""The small tokenizer of alit.npz: sizes, inputs and draws."""

import pathlib

import karl_case
import numpy as np

GOLDEN = pathlib.Path(__file__).parent / 'alit.npz'

SIDE, PATCH = 32, 2  # 16 x 16 patches, as the official class takes.
ROUNDS, TOKENS = 8, 32
# Width, layers and heads, of the encoder and of the decoder.
TOWER, DECODER = (288, 2, 2), (32, 2, 4)
VQGAN = karl_case.VQGAN
RULES = (
  ('base_tokenizer.vqgan.quantize', 4, 0),
  ('quantize.embedding', 12, 0),
  # Image tokens have unit length before positions are added.
  ('encoder_positional_embedding', 0.5, 0),
  ('latent_token', 5, 0),
  ('timestep_embedding', 5, 0),
  ('positional_embedding', 5, 0),
  ('class_embedding', 5, 0),
  ('mask_token', 5, 0),
  ('in_proj_weight', 2, 0),
  ('ffn.2.weight', 25, 0),
)
inputs, tilted = karl_case.inputs, karl_case.tilted


def draws():
  """Uniform numbers [B, R, 256]; a token is masked where they are below p."""
  rng = np.random.default_rng(2)
  return rng.uniform(0, 1, (len(inputs()), ROUNDS, 256)).astype(np.float32)
