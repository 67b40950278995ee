"""`tokpress complexity MODEL --data scenes --out FILE.png`."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tyro

from tokpress_jax import data
from tokpress_jax.cli import common
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.tokenizers import Halting, Quality
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """How many tokens images take, against what is known of them.

  The lengths are chosen by one quality for all: `--loss` for a tokenizer that
  halts (KARL), `--psnr` for any that decodes shorter rows. The same is shown
  for the images with noise added, without their structure, and for images of
  other data sets.

  Attributes:
    model: A tokenizer.
    data: The data set whose class is the known complexity: `scenes`, drawings
      whose class is their number of shapes.
    split: Of it, not trained on.
    foreign: Data sets of other images to compare with, as `photos digits`.
    loss: Mean |error| of pixels in [0, 1] that is good enough.
    psnr: dB that are good enough.
    threshold: Of the chance that a token can be spared, see `Halting`.
    images: At most so many of each set.
    out: The picture; beside it NAME_examples.png has the first image of each
      class, and what its tokens give back.
    seed: Of the noise.
  """

  model: tyro.conf.Positional[str]
  data: str = 'scenes'
  split: str = 'test'
  foreign: tuple[str, ...] = ()
  loss: float | None = None
  psnr: float | None = None
  threshold: float = 0.75
  images: int = 512
  out: str = 'complexity.png'
  seed: int = 0


def main(argv: Sequence[str]) -> None:
  """Prints the tables and writes the pictures."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress complexity')
  if (flags.loss is None) == (flags.psnr is None):
    raise UserError(
      'Give --loss X (a tokenizer that halts) or --psnr DB, one of them.'
    )
  policy: Any = Quality(target=flags.psnr or 0.0)
  if flags.loss is not None:
    policy = Halting(target=flags.loss, threshold=flags.threshold)
  model = common.load(flags.model, 'tokenizer')
  if flags.loss is not None:
    common.check_halts(model.module.config, flags.model)
  images, classes = _read(flags.data, flags.split, flags, model)
  if (classes < 0).any():
    raise UserError(f'{flags.data} has no classes to compare tokens with.')
  others = {
    name: _read(name, flags.split, flags, model)[0] for name in flags.foreign
  }

  from tokpress_jax import viz
  from tokpress_jax.report import complexity

  what = 'shapes' if flags.data == 'scenes' else 'class'
  found = complexity.measure_complexity(
    model, images, classes, policy, others=others, seed=flags.seed
  )
  for table in complexity.tables(found, what=what):
    print(f'{table.text()}\n{table.caption}\n')
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  figure = complexity.complexity_figure(found, what=what)
  out.write_bytes(viz.figure_png(figure))
  sheet = complexity.examples_sheet(model, images, classes, policy)
  examples = out.with_name(f'{out.stem}_examples.png')
  examples.write_bytes(viz.png(sheet))
  print(f'{out}\n{examples}')


def _read(
  name: str, split: str, flags: Flags, model: Loaded
) -> tuple[np.ndarray, np.ndarray]:
  """Images of a data set as the model sees them, and their classes."""
  config = model.module.config
  source = data.open_dataset(
    data.DataConfig(
      name=name,
      split=split,
      image_size=config.image_size,
      channels=config.channels,
    )
  )
  elements = [source[i] for i in range(min(len(source), flags.images))]
  squares = [
    images_lib.fit_image(e['image'], config.image_size)[0] for e in elements
  ]
  # A class whose name is a number is that number.
  names = source.info.class_names
  numbers = [int(n) if n.isdigit() else i for i, n in enumerate(names)]
  labels = [int(e['label']) for e in elements]
  classes = np.array([numbers[i] if 0 <= i < len(names) else i for i in labels])
  return np.asarray(images_lib.to_float(np.concatenate(squares))), classes
