"""`tokpress sample MODEL --labels 3 7 --out FILE.png`."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import numpy as np
import tyro

from tokpress_jax.cli import common
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Draw images from a generator.

  Attributes:
    model: A generator: model directory, work directory or hub name.
    labels: Classes to draw; all by default.
    per_class: Images of each.
    seed: The same seed gives the same images.
    guidance: Scale of classifier-free guidance; none by default.
    schedule: Of the guidance over the steps.
    temperature: Of the draw; 0 takes the most probable code.
    top_k: Draw among the k most probable codes only.
    top_p: Draw among the most probable codes that hold this much.
    tokens: Tokens per image; all by default.
    out: The picture; codes, labels and pixels go into a .npz beside it.
    batch_size: Images at once.
    cell: Side of each image in the picture, in pixels.
  """

  model: tyro.conf.Positional[str]
  labels: tuple[int, ...] = ()
  per_class: int = 8
  seed: int = 0
  guidance: float | None = None
  schedule: str = 'linear'
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  tokens: int | None = None
  out: str = 'samples.png'
  batch_size: int = 64
  cell: int = 64


def main(argv: Sequence[str]) -> None:
  """Writes the picture and the arrays."""
  from tokpress_jax import generators, viz

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress sample')
  if flags.per_class < 1 or flags.batch_size < 1:
    raise UserError('--per-class and --batch-size must be at least 1.')
  model = common.load(flags.model, 'generator')
  classes = model.module.config.num_classes
  wanted = flags.labels or tuple(range(max(classes, 1)))
  labels = np.repeat(np.array(wanted, np.int32), flags.per_class)
  sampler = generators.Sampler(
    temperature=flags.temperature,
    top_k=flags.top_k,
    top_p=flags.top_p,
    guidance=flags.guidance,
    schedule=flags.schedule,
  )
  key = jax.random.key(flags.seed)

  def draw(labels, numbers):
    out = generators.sample(
      model,
      labels,
      rng=jax.random.fold_in(key, numbers[0]),
      sampler=sampler,
      num_tokens=flags.tokens,
    )
    return out.codes, out.images

  codes, pixels = common.in_batches(
    draw, [labels, np.arange(len(labels))], flags.batch_size
  )
  pixels = images_lib.to_uint8(pixels)
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  names = [f'class {c}' for c in range(max(wanted) + 1)]
  sheet = viz.samples_by_class(
    pixels, labels, names, per_class=flags.per_class, cell=flags.cell
  )
  out.write_bytes(viz.png(sheet))
  arrays = out.with_suffix('.npz')
  np.savez_compressed(arrays, codes=codes, labels=labels, images=pixels)
  print(f'{len(labels)} images: {out}, {arrays}')
