"""`tokpress new pruner NAME`: a pruner of your own and its test, to edit."""

import ast
import dataclasses
import importlib.util
import keyword
import pathlib
import re
import sys
from collections.abc import Sequence
from typing import Literal

import tyro

from tokpress_jax import registry
from tokpress_jax.errors import UserError

_TEMPLATES = pathlib.Path(__file__).parent / 'templates'
_LONGEST = 30  # so that no line of the templates passes 80 columns


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Write a pruner of your own and its test, which pass as they are.

  Attributes:
    kind: What is written.
    name: Of the file, in lower case with underscores; the class has the same
      name in CamelCase.
    out: The folder.
    module: One with learned parameters, a Linen module.
  """

  kind: tyro.conf.Positional[Literal['pruner']]
  name: tyro.conf.Positional[str]
  out: str = '.'
  module: bool = False


def main(argv: Sequence[str]) -> None:
  """Writes both files and prints what to do next."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress new')
  out = pathlib.Path(flags.out).expanduser()
  name = flags.name
  cls = ''.join(part.capitalize() for part in name.split('_'))
  files = {
    'new_pruner.py': out / f'{name}.py',
    'test_new_pruner.py': out / f'test_{name}.py',
  }
  causes = _wrong_name(name, cls)
  causes += [f'{path} exists' for path in files.values() if path.exists()]
  if out.exists() and not out.is_dir():
    causes.append(f'--out {out} is a file')
  if causes:
    raise UserError(
      f'No pruner {name!r} was written:\n  ' + '\n  '.join(causes)
    )
  folder = _TEMPLATES / ('module' if flags.module else 'pruner')
  out.mkdir(parents=True, exist_ok=True)
  for template, path in files.items():
    text = (folder / template).read_text()
    text = text.replace('new_pruner', name).replace('NewPruner', cls)
    path.write_text(text)
    print(path)
  print('\n'.join(_next(name, cls, out, flags.module)))


def _wrong_name(name: str, cls: str) -> list[str]:
  """Why a name will not do, every reason."""
  causes = []
  if not re.fullmatch(r'[a-z][a-z0-9]*(_[a-z0-9]+)*', name):
    snake = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()
    snake = re.sub(r'[^a-z0-9]+', '_', snake).strip('_0123456789')
    hint = f', such as {snake!r}' if snake and snake != name else ''
    causes.append(
      f'{name!r} is no name of a file in lower case with underscores{hint}'
    )
  if len(name) > _LONGEST:
    causes.append(f'{len(name)} letters are more than {_LONGEST}')
  if keyword.iskeyword(name) or keyword.iskeyword(cls):
    causes.append(f'{name!r} is a keyword of Python')
  if name.startswith('test_'):
    causes.append('pytest takes files named test_... for tests')
  for entry in registry.entries('pruner'):
    theirs = entry.target.rpartition(':')[2]
    if name == entry.name or cls == theirs:
      causes.append(f'there is a pruner {entry.name!r}, {theirs}')
  if cls in _class_names():
    causes.append(f'the class would be {cls}, a name that the file needs')
  if name.isidentifier() and _shadows(name):
    causes.append(f'a file {name}.py would hide the module {name!r}')
  return causes


def _class_names() -> set[str]:
  """Names that the templates use for something else."""
  found: set[str] = set()
  for path in _TEMPLATES.glob('*/*.py'):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Name):
        found.add(node.id)
      elif isinstance(node, ast.alias):
        found.add(node.asname or node.name)
  return found - {'NewPruner'}


def _shadows(name: str) -> bool:
  """Whether an installed module has the name (a file lying here has not)."""
  if name in sys.stdlib_module_names:
    return True
  try:
    spec = importlib.util.find_spec(name)
  except (ImportError, ValueError):
    return False
  here = pathlib.Path.cwd()
  if spec is None or spec.origin is None:
    return False
  return pathlib.Path(spec.origin).parent != here


def _next(name: str, cls: str, out: pathlib.Path, module: bool) -> list[str]:
  """Commands and code to go on with."""
  shown = out / f'{name}.py'
  lines = [
    '',
    'Test it, then edit both:',
    f'  pytest {out / f"test_{name}.py"}',
  ]
  if module:
    bound = f'{cls}(budget=16).bind(variables)'
    return [
      *lines,
      'In a ViT, inside your jitted function:',
      f"  model(images, plan=(('block_3.after_attention', {bound}),))",
    ]
  return [
    *lines,
    'See what it keeps:',
    '  tokpress prune --model vit-b16 --image photo.jpg \\',
    f'    --pruner {shown}:{cls} --out {name}.png',
    'In a ViT:',
    f"  model(images, plan=(('block_3.after_attention', {cls}(budget=16)),))",
  ]
