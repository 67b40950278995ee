"""`tokpress encode MODEL IMAGES... --out FILE.npz`."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tyro

from tokpress_jax.cli import common
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import safetensors, tokens
from tokpress_jax.tokenizers import Fixed, legal_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Encode images as a file of tokens; see `tokpress_jax.io.tokens`.

  Attributes:
    model: A tokenizer: model directory, work directory or hub name.
    images: Image files, and folders of them.
    out: The token file.
    tokens: Tokens per image; all by default. Between two legal lengths the
      lower one is used, and said.
    fit: How images become square: crop, pad, resize or tile.
    batch_size: Images at once.
  """

  model: tyro.conf.Positional[str]
  images: tyro.conf.Positional[tuple[str, ...]]
  out: str = 'tokens.npz'
  tokens: int | None = None
  fit: images_lib.Policy = 'crop'
  batch_size: int = 64


def main(argv: Sequence[str]) -> None:
  """Writes the token file and prints its size."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress encode')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  budget = config.num_tokens if flags.tokens is None else flags.tokens
  length = legal_length(budget, config.boundaries)
  paths = common.find_images(flags.images)
  squares, placements = common.read_squares(paths, config, flags.fit)

  @jax.jit
  def encode(model, pixels):
    encoded = model.encode(
      images_lib.to_float(pixels), policy=Fixed(tokens=length)
    )
    return encoded.codes, encoded.length

  codes, lengths = common.in_batches(
    lambda pixels: encode(model, pixels), [squares], flags.batch_size
  )
  slots = np.arange(codes.shape[1])[None, :, None]
  codes = np.where(slots < lengths[:, None, None], codes, 0)
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  tokens.save(
    out,
    tokens.TokenFile(
      codes=codes,
      lengths=lengths,
      names=tuple(p.name for p in paths),
      placements=tuple(placements),
      fingerprint=safetensors.fingerprint(model.variables),
    ),
  )
  rows = len(squares)
  bits = length * config.bits_per_token
  print(
    f'{len(paths)} images, {rows} x {length} tokens of '
    f'{config.bits_per_token:.4g} bits ({math.ceil(rows * bits / 8)} bytes of '
    f'code): {out}'
  )
