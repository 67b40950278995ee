"""`tokpress rate MODEL [IMAGES...] --out FILE.png`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from tokpress_jax.cli import common
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import legal_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Rate and distortion of a tokenizer's files, beside JPEG and WebP.

  Photographs of any size are tiled, encoded at several numbers of tokens,
  written as token files and read back.

  Attributes:
    model: A tokenizer.
    images: Image files, and folders of them; by default the photographs that
      the data set `photos` holds out.
    tokens: Tokens of each tile; by default 1, 2, 4, ... and all.
    out: The picture.
    batch_size: Tiles at once.
  """

  model: tyro.conf.Positional[str]
  images: tyro.conf.Positional[tuple[str, ...]] = ()
  tokens: tuple[int, ...] = ()
  out: str = 'rate.png'
  batch_size: int = 64


def main(argv: Sequence[str]) -> None:
  """Prints the tables and writes the picture."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress rate')
  model = common.load(flags.model, 'tokenizer')
  config = model.module.config

  from tokpress_jax import viz
  from tokpress_jax.report import rate
  from tokpress_jax.train.tasks.tokenizer import shown_lengths

  lengths = [legal_length(n, config.boundaries) for n in flags.tokens]
  found = rate.measure_rates(
    model,
    _photographs(flags, config.channels),
    lengths=lengths or shown_lengths(config.boundaries),
    batch=flags.batch_size,
  )
  for table in rate.tables(found):
    print(f'{table.text()}\n{table.caption}\n')
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_bytes(viz.figure_png(rate.rate_figure(found)))
  print(out)


def _photographs(flags: Flags, channels: Any) -> dict[str, np.ndarray]:
  """The images by name."""
  if flags.images:
    paths = common.find_images(flags.images)
    named = {str(path): path for path in paths}
  else:
    from tokpress_jax.data.builders import photos

    named = photos.held_out()
  return {
    name: images_lib.load_image(path, channels=channels)
    for name, path in named.items()
  }
