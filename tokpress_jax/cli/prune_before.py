"""`tokpress prune` before a language model: a contact sheet of methods."""

import dataclasses
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from tokpress_jax import models
from tokpress_jax.cli import common, pictures, prune_plan
from tokpress_jax.cli.prune_flags import Flags
from tokpress_jax.errors import UserError
from tokpress_jax.io import images as images_lib
from tokpress_jax.pruners import before_llm, budgets
from tokpress_jax.report import contact_sheets, standing
from tokpress_jax.types import Ratio

# Those that choose among the patches of one image, and two baselines.
METHODS = (
  'divprune',
  'todre',
  'scope',
  'vispruner',
  'vtc_cls',
  'hiprune',
  'token_corr',
  'hired',
  'globalcom2',
  'dart',
  'catp',
  'idpruner',
  'recoverable',
  'prumerge',
  'prumerge_plus',
  'visionzip',
  'aim',
  'mustdrop',
  'stride',
  'random',
)
_CELL, _BATCH = 112, 16
_OF_PLANS = ('r', 'inflect', 'left', 'names')


def check(flags: Flags, classes: dict[str, Any]) -> None:
  """Refuses flags that a contact sheet has no use for.

  Args:
    flags: of the command.
    classes: name to class.

  Raises:
    UserError: if they were given, or contradict each other.
  """
  default = {f.name: f.default for f in dataclasses.fields(flags)}
  wrong = [n for n in _OF_PLANS if getattr(flags, n) != default[n]]
  if wrong:
    raise UserError(
      f'{" and ".join(f"--{n}" for n in wrong)} is of pruners inside a tower; '
      'say how much methods before a language model keep by one --tokens or '
      '--keep'
    )
  if len(flags.keep) + len(flags.tokens) > 1:
    raise UserError(
      'a contact sheet shows one budget: give one number, of --tokens or --keep'
    )
  if flags.set and len(classes) > 1:
    raise UserError('--set is of one pruner; give one at a time')


def texts_of(
  texts: Sequence[str],
  files: Sequence[pathlib.Path],
  readable: Sequence[pathlib.Path],
) -> tuple[str, ...]:
  """A text for each image that can be read.

  Args:
    texts: as given: none, one for all or one for each.
    files: all images.
    readable: those that can be read, in the same order.

  Raises:
    UserError: if there are more or fewer.
  """
  if not texts:
    return ()
  if len(texts) not in (1, len(files)):
    raise UserError(
      f'{len(texts)} texts for {len(files)} images; give one for all, or one '
      'for each'
    )
  each = list(texts) * (len(files) if len(texts) == 1 else 1)
  there = set(readable)
  return tuple(t for f, t in zip(files, each, strict=True) if f in there)


def run(
  flags: Flags, classes: dict[str, Any], files: Sequence[pathlib.Path]
) -> dict[str, Any]:
  """Draws what methods keep of images.

  Args:
    flags: of the command; a text for each image, or none.
    classes: name to class.
    files: images that can be read.

  Returns:
    All numbers: of each method and image, the patches that are left.
  """
  loaded = common.load(flags.model, 'model', dtype=jnp.dtype(flags.dtype))
  config = models.image_tower(loaded).module.config
  tokens = _budget(flags, config.grid**2)
  made = {
    # Of one's own, path/to/file.py:Class, the class is enough.
    name.rpartition(':')[2]: _make(cls, tokens, config, flags)
    for name, cls in classes.items()
  }
  layer = max(-2, -config.depth)
  standing.check(made, config, layer=layer, texts=bool(flags.text))
  model, texts = flags.for_tower(loaded)
  squares, _ = common.read_squares(files, config, flags.fit)
  detailed = None
  if any(standing.view_of(p) == 'crops' for p in made.values()):
    side = standing.CROPS[0] * config.image_size
    fine = dataclasses.replace(config, image_size=side)
    detailed = images_lib.to_float(
      common.read_squares(files, fine, flags.fit)[0]
    )
  print('compiling', end='', file=sys.stderr)
  try:
    kept = contact_sheets.keep(
      model,
      images_lib.to_float(squares),
      made,
      texts=texts,
      detailed=detailed,
      layer=layer,
      seed=flags.seed,
      batch=max(flags.batch_size, _BATCH),
      told=lambda name: print(f' {name}', end='', file=sys.stderr, flush=True),
    )
  finally:
    print(file=sys.stderr)
  lines = _lines(kept, tokens, config.grid**2)
  print('\n'.join(lines))
  report = {
    'model': loaded.spec.name,
    'source': loaded.spec.source,
    'layer': layer,
    'tokens': tokens,
    'methods': [
      {'name': one.label, 'pruner': repr(one.pruner), 'note': one.note}
      for one in kept
    ],
    'images': [
      {
        'file': str(file),
        **({'text': flags.text[row]} if flags.text else {}),
        'kept': {one.label: one.slots(row).tolist() for one in kept},
      }
      for row, file in enumerate(files)
    ],
    'pictures': _draw(flags, config, files, kept),
  }
  print(', '.join(report['pictures']))
  return report


def _budget(flags: Flags, patches: int) -> int:
  """Tokens that each method leaves."""
  if flags.tokens:
    (tokens,) = flags.tokens
    if not 0 < tokens <= patches:
      raise UserError(
        f'--tokens is {tokens}; this model has {patches} patches, so expected '
        f'1 to {patches}.'
      )
    return tokens
  (share,) = flags.keep or (0.25,)
  return budgets.resolve(Ratio(ratio=share), patches, patches)


def _make(cls: Any, tokens: int, config: Any, flags: Flags) -> Any:
  """A method at the budget."""
  views = 1
  if standing.reads_crops(cls):
    views += standing.CROPS[0] * standing.CROPS[1]
  return before_llm.at_budget(
    cls,
    tokens,
    patches=views * config.grid**2,
    depth=config.depth,
    **prune_plan.read_settings(cls, flags.set),
  )


def _lines(
  kept: Sequence[contact_sheets.Kept], tokens: int, patches: int
) -> list[str]:
  """What is left by each method, as text."""
  width = max(len(one.label) for one in kept)
  lines = [f'{tokens} tokens of {patches} patches']
  for one in kept:
    left = [len(one.slots(row)) for row in range(len(one.reduction.valid))]
    least, most = min(left), max(left)
    number = str(least) if least == most else f'{least} to {most}'
    said = [one.note] if one.note else []
    if one.crops != (1, 1):
      rows, columns = one.crops
      said.append(f'of a thumbnail and {rows} x {columns} crops')
    tail = f'  ({"; ".join(said)})' if said else ''
    lines.append(f'{one.label:{width}}  {number}{tail}')
  return lines


def _draw(
  flags: Flags,
  config: Any,
  files: Sequence[pathlib.Path],
  kept: Sequence[contact_sheets.Kept],
) -> list[str]:
  """Writes a sheet of all images, or a folder with one of each."""
  cell = flags.cell or config.grid * max(1, _CELL // config.grid)
  shown = [pictures.seen(file, config, flags.fit, cell) for file in files]
  names = [file.stem for file in files]
  labels = [name.replace('_', ' ') for name in names]  # so that lines break
  path = pathlib.Path(flags.out)
  parts = [(path, range(len(files)))]
  if not pictures.is_picture(flags.out):
    parts = [
      (path / f'{i}_{name}.png', range(i, i + 1))
      for i, name in enumerate(names)
    ]
  for where, rows in parts:
    sheet = contact_sheets.contact_sheet(
      [shown[i] for i in rows],
      kept,
      rows=rows,
      names=[labels[i] for i in rows],
      texts=[flags.text[i] for i in rows] if flags.text else (),
      cell=cell,
    )
    pictures.write(where, sheet)
  return [str(where) for where, _ in parts]
