"""`tokpress decode MODEL FILE.npz --out FOLDER`."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tyro

from tokpress_jax.cli import common
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.io import safetensors, tokens
from tokpress_jax.tokenizers import legal_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Decode a file of tokens to PNG images of their original sizes.

  Attributes:
    model: The tokenizer that encoded them.
    file: The token file.
    out: Folder for the images.
    tokens: Use only so many tokens of each image.
    batch_size: Images at once.
  """

  model: tyro.conf.Positional[str]
  file: tyro.conf.Positional[str]
  out: str = 'decoded'
  tokens: int | None = None
  batch_size: int = 64


def main(argv: Sequence[str]) -> None:
  """Writes the images."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress decode')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  found = tokens.load(flags.file)
  mine = safetensors.fingerprint(model.variables)
  if found.fingerprint != mine:
    raise UserError(
      f'{flags.file} was encoded by another tokenizer (fingerprint '
      f'{found.fingerprint}; {flags.model} has {mine}). Give the model that '
      'encoded it.'
    )
  lengths = found.lengths
  if flags.tokens is not None:
    legal = legal_length(flags.tokens, config.boundaries)
    lengths = np.minimum(lengths, legal)

  decode = jax.jit(lambda model, c, n: model.decode_codes(c, length=n))
  squares = common.in_batches(
    lambda c, n: decode(model, c, n), [found.codes, lengths], flags.batch_size
  )
  out, start = pathlib.Path(flags.out), 0
  names = _unique(found.names)
  for name, placement in zip(names, found.placements, strict=True):
    stop = start + math.prod(placement.grid)
    pixels = images_lib.to_uint8(squares[start:stop])
    common.write_png(out / name, images_lib.unfit_image(pixels, placement))
    start = stop
  print(f'{len(names)} images in {out}')


def _unique(names: Sequence[str]) -> list[str]:
  """PNG names, numbered where folders held files of the same name."""
  taken: dict[str, int] = {}
  out = []
  for name in names:
    stem = pathlib.Path(name).stem
    taken[stem] = taken.get(stem, 0) + 1
    out.append(
      f'{stem}.png' if taken[stem] == 1 else f'{stem}_{taken[stem]}.png'
    )
  return out
