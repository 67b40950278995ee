"""`tokpress reconstruct MODEL IMAGES... --out FILE.png`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from tokpress_jax.cli import common
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import Quality, legal_length
from tokpress_jax.tokenizers.lengths import decibels
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Show images as a tokenizer gives them back, from ever more tokens.

  Attributes:
    model: A tokenizer: model directory, work directory or hub name.
    images: Image files, and folders of them.
    out: The picture: a row for each number of tokens, then the originals.
    tokens: The numbers of tokens; by default 1, 2, 4, ... and all.
    psnr: Also print how many tokens each image needs for so many dB.
    fit: How images become square: crop, pad, resize or tile.
    cell: Side of each image in the picture, in pixels.
  """

  model: tyro.conf.Positional[str]
  images: tyro.conf.Positional[tuple[str, ...]]
  out: str = 'reconstructions.png'
  tokens: tuple[int, ...] = ()
  psnr: float | None = None
  fit: images_lib.Policy = 'crop'
  cell: int = 96


def main(argv: Sequence[str]) -> None:
  """Writes the picture and prints the quality at each number of tokens."""
  from tokpress_jax import metrics, viz
  from tokpress_jax.train.tasks.tokenizing import shown_lengths

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress reconstruct')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  budgets = sorted(
    {legal_length(n, config.boundaries) for n in flags.tokens}
    or shown_lengths(config.boundaries)
  )
  paths = common.find_images(flags.images)
  squares, _ = common.read_squares(paths, config, flags.fit)

  @jax.jit
  def run(model, pixels):
    encoded = model.encode(images_lib.to_float(pixels))
    return [model.decode(encoded.first(n)) for n in budgets]

  outputs = common.in_batches(lambda x: run(model, x), [squares], 16)
  decoded = {
    n: images_lib.to_uint8(x) for n, x in zip(budgets, outputs, strict=True)
  }
  print('tokens   bits/pixel   PSNR (dB)')
  for n, pixels in decoded.items():
    unit = lambda x: jnp.asarray(x, jnp.float32) / 255
    psnr = float(np.mean(metrics.psnr(unit(pixels), unit(squares))))
    rate = 'continuous'
    if not config.continuous:
      rate = f'{n * config.bits_per_token / config.image_size**2:.4f}'
    print(f'{n:6d}   {rate:>10}   {psnr:9.2f}')
  if flags.psnr is not None:
    _print_lengths(model, paths, squares, flags.psnr)
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  sheet = viz.reconstructions(squares, decoded, cell=flags.cell)
  out.write_bytes(viz.png(sheet))
  print(out)


def _print_lengths(
  model: Loaded,
  paths: Sequence[pathlib.Path],
  squares: np.ndarray,
  target: float,
) -> None:
  """Prints the shortest prefix of each square that reaches a PSNR."""

  @jax.jit
  def run(model, pixels):
    images = images_lib.to_float(pixels)
    encoded = model.encode(images, policy=Quality(target=target))
    return encoded.length, decibels(model.decode(encoded), images)

  length, psnr = common.in_batches(lambda x: run(model, x), [squares], 16)
  names = [str(path) for path in paths]
  if len(names) != len(squares):  # Tiles.
    names = [f'square {i}' for i in range(len(squares))]
  print(f'for {target:g} dB:')
  for name, n, found in zip(names, length, psnr, strict=True):
    short = '' if found >= target else '  (all tokens, and not reached)'
    print(f'{n:6d}   {found:9.2f}   {name}{short}')
  print(f'{length.mean():6.1f}   tokens on average')
