"""`tokpress prune --model vit-b16 --pruner tome --r 13 --image FILE`."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import tyro

from tokpress_jax.cli import (
  common,
  pictures,
  prune_before,
  prune_inside,
  prune_plan,
)
from tokpress_jax.cli.prune_flags import Flags
from tokpress_jax.errors import UserError
from tokpress_jax.io import outputs
from tokpress_jax.pruners import before_llm, inside_vit
from tokpress_jax.pruners.find import find_pruner
from tokpress_jax.report import standing


def main(argv: Sequence[str]) -> int:
  """Writes the pictures and prints the numbers.

  Returns:
    1 if some of the images could not be read, else 0.
  """
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress prune')
  for name in ('batch_size', 'panels'):
    if getattr(flags, name) < 1:
      raise UserError(f'--{name.replace("_", "-")} is at least 1')
  if pictures.is_picture(flags.out):
    outputs.check_file(flags.out, '--out')
  else:
    outputs.check_folder(flags.out, '--out')
  if flags.json:
    outputs.check_file(flags.json, '--json')
  classes = classes_of(flags.pruner)
  before = _stand_before(flags, classes)
  if before:
    prune_before.check(flags, classes)
  elif flags.text:
    raise UserError(
      '--text guides methods before a language model; '
      f'{", ".join(classes)} takes none. Those that read one are '
      f'{", ".join(standing.text_readers())}'
    )
  files = common.find_images(flags.image)
  readable = common.readable(files)
  if before:
    texts = prune_before.texts_of(flags.text, files, readable)
    flags = dataclasses.replace(flags, text=texts)
  run = prune_before.run if before else prune_inside.run
  report = run(flags, classes, readable)
  if flags.json:
    text = json.dumps(report, indent=2) + '\n'
    pathlib.Path(flags.json).write_text(text)
  return int(len(readable) < len(files))


def classes_of(names: Sequence[str]) -> dict[str, Any]:
  """Name to class.

  Args:
    names: as given; 'all' stands for the methods before a language model that
      choose among the patches of one image.

  Raises:
    UserError: if there is no such pruner, or one is named twice.
  """
  if 'all' in names:
    names = [
      *(n for n in names if n != 'all'),
      *(n for n in prune_before.METHODS if n not in names),
    ]
  if twice := sorted({n for n in names if names.count(n) > 1}):
    raise UserError(f'--pruner names {", ".join(twice)} twice')
  found = {name: find_pruner(name) for name in names}
  lacking = {
    'frames of a video': (before_llm.DTD, before_llm.DyCoke),
    'positions of three axes': (before_llm.PPE,),
    'places in space': (before_llm.SeGPruner,),
  }
  for what, classes in lacking.items():
    if wrong := [n for n, cls in found.items() if cls in classes]:
      raise UserError(
        f'{", ".join(wrong)} wants {what}, and this command shows single '
        'images; call it from Python'
      )
  return found


def _stand_before(flags: Flags, classes: dict[str, Any]) -> bool:
  """Whether the methods choose before a language model.

  Raises:
    UserError: if some of several act inside the tower.
  """
  if len(classes) == 1:
    (cls,) = classes.values()
    return not flags.sites and prune_plan.own_sites(cls) == ('tower_out',)
  inside = [
    name
    for name, cls in classes.items()
    if cls.__module__.startswith(inside_vit.__name__)
  ]
  if inside or flags.sites:
    what = '--sites is of one inside a tower'
    if inside:
      what = f'{" and ".join(inside)} would act inside a tower'
    raise UserError(
      f'several pruners are compared before a language model, and {what}; give '
      'one at a time'
    )
  return True
