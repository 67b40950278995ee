"""What several commands share: models, image files, batches."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from tokpress_jax.errors import UserError
from tokpress_jax.generators import sampling
from tokpress_jax.io import images
from tokpress_jax.io import load as load_lib
from tokpress_jax.types import Loaded


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplerFlags:
  """How codes are drawn.

  Attributes:
    seed: The same seed draws the same images, for one batch size.
    guidance: Scale of classifier-free guidance; none by default.
    schedule: Of the guidance over the steps.
    power: Of the schedule power-cosine; RAR-B has 2.75.
    temperature: Of the draw; 0 takes the most probable code.
    top_k: Draw among the k most probable codes only.
    top_p: Draw among the most probable codes that hold this much.
    steps: Of a generator that refines (MaskGIT); its own number by default.
    choice_temperature: Of a generator that refines: how much chance has a part
      in which codes are kept.
    annealing: Of a generator that refines: noise, as in TiTok, falls with the
      steps; noise+softmax sharpens the codes' probabilities too.
  """

  seed: int = 0
  guidance: float | None = None
  schedule: Literal[tuple(sampling.SCHEDULES)] = 'linear'  # type: ignore[valid-type]
  power: float = 3.0
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  steps: int | None = None
  choice_temperature: float = 4.5
  annealing: sampling.Annealing = 'none'

  def sampler(self, *, smooth: bool = False) -> sampling.Sampler:
    """The sampler; it raises for values without a meaning."""
    return sampling.Sampler(
      temperature=self.temperature,
      top_k=self.top_k,
      top_p=self.top_p,
      guidance=self.guidance,
      schedule=self.schedule,
      power=self.power,
      smooth=smooth,
      steps=self.steps,
      choice_temperature=self.choice_temperature,
      annealing=self.annealing,
    )


SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff')


def load(name: str, family: str, *, dtype: Any = jnp.float32) -> Loaded:
  """Loads a model of one family, its matmuls in `dtype`.

  Raises:
    UserError: It is of another family; a generator's own tokenizer is named.
  """
  loaded = load_lib.load(name, dtype=dtype)
  if loaded.spec.family != family:
    has_one = loaded.spec.family == 'generator' and family == 'tokenizer'
    hint = f' Its tokenizer is in {name}/tokenizer.' if has_one else ''
    names = {'model': 'classifier', 'encoder': 'text encoder'}
    called = lambda family: names.get(family, family)
    raise UserError(
      f'{name} is a {called(loaded.spec.family)}; this command needs a '
      f'{called(family)}.{hint}'
    )
  return loaded


def find_images(paths: Sequence[str]) -> list[pathlib.Path]:
  """Returns image files: those given, and those in given folders, sorted.

  Files in folders that are no images by their extension are passed over, and
  their number is printed.

  Raises:
    UserError: There is no path, one does not exist, or a folder holds no
      images.
  """
  if not paths:
    raise UserError('Name at least one image file, or a folder of images.')
  found: list[pathlib.Path] = []
  for path in map(pathlib.Path, paths):
    if path.is_dir():
      inside = sorted(p for p in path.rglob('*') if p.is_file())
      inside = [p for p in inside if not p.name.startswith('.')]
      chosen = [p for p in inside if p.suffix.lower() in SUFFIXES]
      others = len(inside) - len(chosen)
      if not chosen:
        raise UserError(
          f'There are no images in {path} (and {others} other files); '
          f'expected {", ".join(SUFFIXES)}.'
        )
      if others:
        print(f'Skipped in {path}: {others} not images by their extension')
      found += chosen
    elif path.is_file():
      found.append(path)
    else:
      raise UserError(f'There is no image or folder {str(path)!r}.')
  return found


def readable(paths: Sequence[pathlib.Path]) -> list[pathlib.Path]:
  """Returns the images that can be read; the others are told on stderr.

  A command that goes on without some of its images ends with status 1.

  Args:
    paths: Image files.

  Raises:
    UserError: None of them can be read; all causes are listed.
  """
  found, causes = [], []
  for path in paths:
    try:
      images.load_image(path)
      found.append(path)
    except images.ImageError as error:
      causes.append(str(error))
  if not found:
    raise UserError('\n  '.join(['No image can be read:', *causes]))
  if causes:
    head = f'Left out, {len(causes)} of {len(paths)} images:'
    print('\n  '.join([head, *causes]), file=sys.stderr)
  return found


def told(text: str) -> None:
  """Says on stderr what takes its time now."""
  print(text, file=sys.stderr, flush=True)


def read_squares(
  paths: Sequence[pathlib.Path], config: Any, policy: images.Policy
) -> tuple[np.ndarray, list[images.Placement]]:
  """Reads images and makes them what a model sees.

  Args:
    paths: Image files; one that is none is an error that names it.
    config: With `image_size` and `channels`.
    policy: See `io.images`.

  Returns:
    uint8 [R, S, S, C], and how to undo each image's fit.
  """
  squares, placements = [], []
  for path in paths:
    pixels = images.load_image(path, channels=config.channels)
    fitted, placement = images.fit_image(
      pixels, config.image_size, policy=policy
    )
    squares.append(fitted)
    placements.append(placement)
  return np.concatenate(squares), placements


def write_png(path: pathlib.Path, pixels: Any) -> None:
  """Writes uint8 or float [H, W, C] pixels as a PNG file."""
  pixels = np.asarray(pixels)
  if pixels.dtype != np.uint8:
    pixels = images.to_uint8(pixels)
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(images.encode_png(pixels))


def check_halts(config: Any, name: str) -> None:
  """Raises `UserError` unless a tokenizer takes --loss."""
  if not config.selects:
    raise UserError(
      f'{name} does not say which of its tokens it can spare, which --loss '
      'needs (KARL does); give --psnr DB, for the fewest that give so many dB.'
    )
