"""`tokpress sample MODEL --labels 3 7 --out FILE.png`: draw, or edit images."""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import tyro

from tokpress_jax.cli import common, texts
from tokpress_jax.data import streaming
from tokpress_jax.errors import UserError
from tokpress_jax.generators import editing
from tokpress_jax.io import images as images_lib
from tokpress_jax.train.config import MeshConfig
from tokpress_jax.types import Loaded

# All classes are drawn by default if there are no more than these.
_FEW_CLASSES = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(texts.TextFlags, common.SamplerFlags):
  """Draw images from a generator, or parts of an image.

  `tokpress sample var-d16 --labels 207 387 --guidance 4 --top-k 900 --top-p
  0.95` draws images of two classes.

  `tokpress sample var-d16 --image photo.jpg --box 0.2 0.2 0.8 0.8` keeps the
  tokens of an image outside the box and draws those inside it (in-painting);
  `--draw outside` does the opposite; `--labels 207` draws the box as that
  class. Scale-wise generators only.

  `tokpress sample maskgen-vq-l --text "a fox in the snow" --guidance 12
  --schedule cosine --temperature 2 --choice-temperature 2 --annealing
  noise+softmax` draws a text.

  Attributes:
    model: A generator: released weights by name, a file of `tokpress convert`,
      a model directory, a work directory or a hub name.
    labels: Classes to draw, one number more than the last for no class; by
      default all, eight of more than twenty, and no class for an --image.
    per_class: Images of each class or text.
    score: How beautiful the images of a --text are to be, 0 to 10.
    smooth: Go on from soft mixtures of codes (VAR's "more smooth").
    tokens: Tokens per image; all by default.
    image: An image to edit.
    box: Of the --image, in fractions of its sides: top, left, bottom, right.
    draw: Which part of the --image is drawn anew.
    fit: How the --image becomes square: crop, pad or resize.
    show_scales: Also picture the first image of each class after each scale,
      in a file beside the picture. Every image is then decoded as often.
    out: The picture; codes, labels and pixels go into a .npz beside it.
    batch_size: Images at once.
    cell: Side of each image in the picture, in pixels; by default its own, but
      at least 64 and at most 256.
    mesh: Devices; the first one by default, all with --mesh.data -1. Parameters
      are spread by --mesh.fsdp and --mesh.model.
  """

  model: tyro.conf.Positional[str]
  labels: tuple[int, ...] = ()
  per_class: int = 8
  score: float = 6.5
  smooth: bool = False
  tokens: int | None = None
  image: str | None = None
  box: tuple[float, float, float, float] | None = None
  draw: editing.Edit = 'inside'
  fit: images_lib.Policy = 'crop'
  show_scales: bool = False
  out: str = 'samples.png'
  batch_size: int = 16
  cell: int | None = None
  mesh: MeshConfig = MeshConfig(data=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """What is kept of an image.

  Attributes:
    original: uint8 [H, W, C].
    drawn: bool [h, w], what is drawn anew, in tokens of the finest scale.
    forced: int32 [1, L], see `generators.sample`.
  """

  original: np.ndarray
  drawn: np.ndarray
  forced: np.ndarray


def main(argv: Sequence[str]) -> None:
  """Writes the picture and the arrays."""
  from tokpress_jax import generators, inference
  from tokpress_jax.tokenizers import legal_length

  flags = tyro.cli(Flags, args=list(argv), prog='tokpress sample')
  if flags.per_class < 1 or flags.batch_size < 1:
    raise UserError('--per-class and --batch-size must be at least 1.')
  box = _box(flags)
  sampler = flags.sampler(smooth=flags.smooth)
  model = common.load(flags.model, 'generator')
  if model.tokenizer is None:
    raise UserError(
      f'{flags.model} has no tokenizer, so that it draws codes and no images.'
    )
  config = model.module.config
  config.check_sampler(sampler)
  if config.reads_text and flags.labels:
    raise UserError(f'{flags.model} draws texts, not --labels: give --text.')
  text = flags.for_generator(config, score=flags.score)
  wanted = _classes(flags, config.num_classes)
  if text is not None:
    wanted = tuple(range(text.batch))
  labels = np.repeat(np.array(wanted, np.int32), flags.per_class)
  if text is None:
    config.check_condition(labels)
  tokens = config.num_tokens if flags.tokens is None else flags.tokens
  tokens = legal_length(tokens, config.boundaries)
  show: tuple[int, ...] = ()
  if flags.show_scales:
    _need_scales(config, '--show-scales pictures')
    show = tuple(end for end in config.boundaries if end <= tokens)
  edit = None if box is None else _edit(flags, model, box)
  model, mesh = _place(model, flags.mesh)
  model = inference.for_inference(model)
  put, ways = _spreading(mesh)
  key = jax.random.key(flags.seed)
  strips: dict[int, list[np.ndarray]] = {}  # of the first image of a class

  def draw(labels: np.ndarray, numbers: np.ndarray) -> Any:
    forced = None
    if edit is not None:
      forced = put(np.repeat(edit.forced, len(labels), axis=0))
    out = generators.sample(
      model,
      put(labels)
      if text is None
      else jax.tree.map(lambda x: put(np.asarray(x)[labels]), text),
      rng=jax.random.fold_in(key, numbers[0]),
      sampler=sampler,
      num_tokens=tokens,
      forced=forced,
      show=show,
    )
    for row, label in enumerate(labels.tolist() if show else ()):
      if label not in strips:
        stages = jax.device_get([stage[row] for stage in out.previews])
        strips[label] = [images_lib.to_uint8(stage) for stage in stages]
    tokens_of = 'codes' if out.embeddings is None else 'embeddings'
    return {tokens_of: getattr(out, tokens_of), 'images': out.images}

  print(f'Drawing {len(labels)} images; the first batch is compiled before.')
  drawn = streaming.in_batches(
    draw,
    [labels, np.arange(len(labels))],
    flags.batch_size,
    multiple=ways,
  )
  arrays = {
    **drawn,
    'labels': labels,
    'images': images_lib.to_uint8(drawn['images']),
  }
  if text is not None:
    arrays['texts'] = np.array(flags.text)
  _write(flags, arrays, wanted, config, edit, strips)


def _box(flags: Flags) -> editing.Box | None:
  """The box of an edit; None if images are drawn whole."""
  if (flags.image is None) != (flags.box is None):
    raise UserError(
      'An edit needs both --image FILE and --box TOP LEFT BOTTOM RIGHT, in '
      'fractions of its sides, such as --box 0.2 0.2 0.8 0.8.'
    )
  if flags.image is None and flags.draw != 'inside':
    raise UserError('--draw is of an edit: give --image and --box too.')
  return None if flags.box is None else editing.Box(*flags.box)


def _classes(flags: Flags, classes: int) -> tuple[int, ...]:
  if flags.labels:
    return tuple(dict.fromkeys(flags.labels))
  if flags.image is not None:
    return (classes,)  # No class.
  if classes <= _FEW_CLASSES:
    return tuple(range(max(classes, 1)))
  some = np.linspace(0, classes - 1, 8).astype(int).tolist()
  print(f'8 of {classes} classes; --labels chooses others.')
  return tuple(some)


def _need_scales(config: Any, what: str) -> None:
  if not hasattr(config, 'grids'):
    raise UserError(
      f'{what} the scales of a scale-wise generator such as var-d16; this one '
      f'is a {type(config).__name__}, whose tokens have no place in the image.'
    )


def _edit(flags: Flags, model: Loaded, box: editing.Box) -> Edit:
  """Encodes the image, and says which of its tokens are kept."""
  assert flags.image is not None and model.tokenizer is not None
  _need_scales(model.module.config, '--image is edited through')
  if flags.fit == 'tile':
    raise UserError('--fit tile makes many squares of an --image; try pad.')
  scales = model.tokenizer.scales
  height, width = scales[-1]
  drawn = editing.drawn_tokens(scales, box, draw=flags.draw)
  squares, _ = common.read_squares(
    [pathlib.Path(flags.image)],
    model.tokenizer.module.config,
    flags.fit,
  )
  encode = jax.jit(lambda model, pixels: model.encode(pixels).codes)
  codes = encode(model.tokenizer, images_lib.to_float(squares))
  return Edit(
    original=squares[0],
    drawn=drawn[-height * width :].reshape(height, width),
    forced=np.asarray(editing.keep(codes, scales, box, draw=flags.draw)),
  )


def _place(
  model: Loaded, config: MeshConfig
) -> tuple[Loaded, jax.sharding.Mesh | None]:
  """Spreads the model if more than one device is asked for."""
  sizes = (config.data, config.fsdp, config.model)
  if sizes == (1, 1, 1):
    return model, None
  from tokpress_jax.train import mesh as mesh_lib
  from tokpress_jax.train import place

  devices = jax.local_devices()
  if -1 not in sizes:
    devices = devices[: math.prod(sizes)]
  mesh = mesh_lib.make_mesh(config, devices=devices)
  return place.place(model, mesh, config), mesh


def _spreading(mesh: jax.sharding.Mesh | None) -> tuple[Any, int]:
  """What puts arrays onto the devices, and what rows must be divisible by."""
  if mesh is None:
    return np.asarray, 1
  from tokpress_jax.train import place

  return lambda rows: place.spread(rows, mesh), mesh.shape['data']


def _write(
  flags: Flags,
  arrays: dict[str, np.ndarray],
  wanted: tuple[int, ...],
  config: Any,
  edit: Edit | None,
  strips: dict[int, list[np.ndarray]],
) -> None:
  """Writes the pictures and the arrays, and prints where they are."""
  from tokpress_jax import viz

  pixels, labels = arrays['images'], arrays['labels']
  cell = flags.cell or min(max(pixels.shape[1], 64), 256)

  def name(c: int) -> str:
    if flags.text:
      return flags.text[c]
    return 'no class' if c == config.num_classes else f'class {c}'

  if edit is None:
    names = [name(c) for c in range(max(wanted) + 1)]
    sheet = viz.samples_by_class(
      pixels, labels, names, per_class=flags.per_class, cell=cell
    )
  else:
    arrays = {**arrays, 'original': edit.original}
    sheet = viz.edits(
      edit.original,
      edit.drawn,
      [pixels[labels == c] for c in wanted],
      row_labels=[name(c) for c in wanted],
      cell=cell,
    )
  out = pathlib.Path(flags.out)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_bytes(viz.png(sheet))
  files = [out]
  if strips:
    files.append(out.with_name(f'{out.stem}_scales{out.suffix}'))
    stages = list(zip(*(strips[c] for c in wanted), strict=True))
    strip = viz.scale_by_scale(
      stages,
      config.grids[: len(stages)],
      row_labels=[name(c) for c in wanted],
      cell=cell,
    )
    files[-1].write_bytes(viz.png(strip))
  files.append(out.with_suffix('.npz'))
  np.savez_compressed(files[-1], **arrays)  # type: ignore[arg-type]
  print(f'{len(labels)} images: {", ".join(map(str, files))}')
