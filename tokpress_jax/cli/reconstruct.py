"""`tokpress reconstruct MODEL IMAGES... --out FILE.png`."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from tokpress_jax import losses
from tokpress_jax.cli import common, texts
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import Quality, legal_length, minus_lpips
from tokpress_jax.tokenizers.lengths import decibels
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(texts.TextFlags):
  """Show images as a tokenizer gives them back, from ever more tokens.

  Attributes:
    model: A tokenizer: released weights by name, a file of `tokpress convert`,
      a model directory, a work directory or a hub name.
    images: Image files, and folders of them.
    out: The picture: a row for each number of tokens, then the originals.
    tokens: The numbers of tokens; by default 1, 2, 4, ... and all.
    psnr: Also print how many tokens each image needs for so many dB.
    lpips: The same for an LPIPS of at most so much (0.2 looks much alike).
    lpips_file: Its weights, made by `tokpress convert lpips`.
    fit: How images become square: crop, pad, resize or tile.
    cell: Side of each image in the picture, in pixels.
  """

  model: tyro.conf.Positional[str]
  images: tyro.conf.Positional[tuple[str, ...]]
  out: str = 'reconstructions.png'
  tokens: tuple[int, ...] = ()
  psnr: float | None = None
  lpips: float | None = None
  lpips_file: str = 'lpips.safetensors'
  fit: images_lib.Policy = 'crop'
  cell: int = 96


def main(argv: Sequence[str]) -> None:
  """Writes the picture and prints the quality at each number of tokens."""
  from tokpress_jax import metrics, viz
  from tokpress_jax.train.tasks.tokenizer import shown_lengths

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress reconstruct')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config
  budgets = sorted(
    {legal_length(n, config.boundaries) for n in flags.tokens}
    or shown_lengths(config.boundaries)
  )
  paths = common.find_images(flags.images)
  squares, _ = common.read_squares(paths, config, flags.fit)
  needs = _needs(flags, config)
  condition = flags.for_decoder(config, len(squares))
  given = [squares] if condition is None else [squares, condition]

  @jax.jit
  def run(model, pixels, condition=None):
    rows = model.encode_each(images_lib.to_float(pixels), tokens=budgets)
    return [model.decode(row, condition=condition) for row in rows]

  outputs = streaming.in_batches(functools.partial(run, model), given, 16)
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
  for need in needs:
    _print_lengths(model, paths, given, need)
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  sheet = viz.reconstructions(squares, decoded, cell=flags.cell)
  out.write_bytes(viz.png(sheet))
  print(out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Need:
  """How good images must be: a target of a measure, more being better.

  Attributes:
    title: what it is.
    target: of the measure.
    measure: (weights, decoded, images) -> [B].
    weights: of the measure.
    sign: what a value is printed times.
  """

  title: str
  target: float
  measure: Callable[..., jax.Array]
  weights: Any = ()
  sign: int = 1


def _needs(flags: Flags, config: Any) -> list[_Need]:
  """What the flags ask of each image."""
  found = []
  if flags.psnr is not None:
    found.append(
      _Need(
        title=f'{flags.psnr:g} dB',
        target=flags.psnr,
        measure=lambda _, x, y: decibels(x, y),
      )
    )
  if flags.lpips is not None:
    if config.image_size < 16 or config.channels not in (1, 3):
      raise UserError(
        'LPIPS takes images of 16 pixels or more with 1 or 3 channels; the '
        f'images of this tokenizer have {config.image_size} pixels and '
        f'{config.channels}. Use --psnr.'
      )
    found.append(
      _Need(
        title=f'LPIPS {flags.lpips:g}',
        target=-flags.lpips,
        measure=lambda weights, x, y: minus_lpips(weights)(x, y),
        weights=losses.load_lpips(flags.lpips_file),
        sign=-1,
      )
    )
  return found


def _print_lengths(
  model: Loaded,
  paths: Sequence[pathlib.Path],
  given: Sequence[np.ndarray],
  need: _Need,
) -> None:
  """Prints the shortest prefix of each square that is good enough.

  Args:
    model: the tokenizer.
    paths: of the images.
    given: their squares, and the texts if its decoder reads them.
    need: what is good enough.
  """

  @jax.jit
  def run(model, weights, pixels, condition=None):
    images = images_lib.to_float(pixels)
    measure = functools.partial(need.measure, weights)
    policy = Quality(target=need.target, measure=measure)
    encoded = model.encode(images, policy=policy, condition=condition)
    decoded = model.decode(encoded, condition=condition)
    return encoded.length, measure(decoded, images)

  length, quality = streaming.in_batches(
    functools.partial(run, model, need.weights), given, 16
  )
  names = [str(path) for path in paths]
  if len(names) != len(given[0]):  # Tiles.
    names = [f'square {i}' for i in range(len(given[0]))]
  print(f'for {need.title}:')
  for name, n, found in zip(names, length, quality, strict=True):
    reached = found >= need.target
    short = '' if reached else '  (all tokens, and not reached)'
    print(f'{n:6d}   {need.sign * found:9.2f}   {name}{short}')
  print(f'{length.mean():6.1f}   tokens on average')
