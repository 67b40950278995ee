"""A pruner class by its name, or out of a file of your own.

Only what a person writes on a command line or in a program goes through here;
a config file from a stranger can name registered classes alone (`registry`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import inspect
import os
import pathlib
import traceback
import types
from typing import Any

import flax.linen as nn

from tokpress_jax import registry
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io.python_file import import_file

_FORMS = (
  "a name of `tokpress list pruners`, 'path/to/file.py:Class' or "
  "'package.module:Class'"
)


def find_pruner(reference: str | os.PathLike[str]) -> type[Any]:
  """Returns the class that a reference names.

  Args:
    reference: a registered name ('tome'), 'path/to/file.py:Class' or
      'package.module:Class'; ':Class' may be left out where the file or module
      defines one pruner. The code of the file or module is run.

  Returns:
    A frozen dataclass with `needs` and `plan`: `find_pruner(x)(budget=16)`.

  Raises:
    UserError: if there is no such name, file or class, the file does not run,
      or the class is not a pruner that a plan takes.
  """
  reference = os.fspath(reference)
  where, colon, name = reference.rpartition(':')
  if not colon:
    where, name = reference, ''
  if where.endswith('.py') or os.sep in where:
    module = _from_file(pathlib.Path(where).expanduser())
  elif colon or '.' in where:
    module = _from_module(where)
  else:
    return _registered(where)
  return _checked(_pick(module, name, where), where)


def _registered(name: str) -> type[Any]:
  """A class of the registry."""
  names = [entry.name for entry in registry.entries('pruner')]
  learned = [entry.name for entry in registry.entries('compressor')]
  if name in learned:
    raise UserError(
      f'{name!r} is a learned compressor with weights of its own, and no '
      'pruner; load it (`tokpress list weights`) or see `pruners.compressors`'
    )
  if name not in names:
    raise UserError(
      f'There is no pruner {name!r}. {did_you_mean(name, names)} One of your '
      "own is 'path/to/file.py:Class'."
    )
  return registry.resolve(name)


def _from_file(path: pathlib.Path) -> types.ModuleType:
  """Runs a file."""
  if not path.is_file() or path.suffix != '.py':
    near = [p.name for p in path.parent.glob('*.py')]
    close = difflib.get_close_matches(path.name, near, n=3)
    hint = f' Did you mean {" or ".join(close)}?' if close else ''
    raise UserError(
      f'There is no Python file {str(path)!r}; a pruner is {_FORMS}.{hint}'
    )
  # Two files of one name in two folders are two modules.
  mark = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
  try:
    return import_file(path, name=f'tokpress_pruner_{path.stem}_{mark}')
  except Exception as error:
    raise UserError(_failed(str(path), error)) from error


def _from_module(name: str) -> types.ModuleType:
  """Imports a module."""
  try:
    return importlib.import_module(name)
  except ModuleNotFoundError as error:
    if error.name and (name == error.name or name.startswith(error.name + '.')):
      raise UserError(
        f'There is no module {name!r}; a pruner is {_FORMS}.'
      ) from error
    raise UserError(_failed(name, error)) from error
  except Exception as error:
    raise UserError(_failed(name, error)) from error


def _failed(name: str, error: Exception) -> str:
  """Says where a file of the user's failed."""
  frames = traceback.extract_tb(error.__traceback__)
  at = f'{frames[-1].filename}, line {frames[-1].lineno}' if frames else name
  if isinstance(error, SyntaxError):
    at = f'{error.filename}, line {error.lineno}'
  return f'{name} does not run: {type(error).__name__}: {error} ({at})'


def _pick(module: types.ModuleType, name: str, where: str) -> Any:
  """The class of that name, or the only pruner that the module defines."""
  own = [
    key
    for key, value in vars(module).items()
    if inspect.isclass(value)
    and value.__module__ == module.__name__
    and _is_pruner(value)
  ]
  if name:
    if not hasattr(module, name):
      raise UserError(f'{where} has no {name!r}. {did_you_mean(name, own)}')
    return getattr(module, name)
  if len(own) != 1:
    found = f'defines {", ".join(own)}' if own else 'defines no pruner'
    raise UserError(
      f'{where} {found}; say which class, as in {where}:'
      f'{own[0] if own else "MyPruner"}'
    )
  return getattr(module, own[0])


def _is_pruner(value: Any) -> bool:
  return all(hasattr(value, name) for name in ('needs', 'plan'))


def _checked(value: Any, where: str) -> type[Any]:
  """Refuses what cannot stand in a plan by itself."""
  if not inspect.isclass(value):
    raise UserError(
      f'{where}: expected a class, got {type(value).__name__}; name the class, '
      'whose budget is given where it is used'
    )
  label = f'{where}:{value.__name__}'
  if missing := [n for n in ('needs', 'plan') if not hasattr(value, n)]:
    raise UserError(
      f'{label} is not a pruner: it has no {" and no ".join(missing)}; derive '
      'it from tokpress_jax.pruners.Pruner'
    )
  if issubclass(value, nn.Module):
    raise UserError(
      f'{label} has learned parameters, and there are none here; in Python, '
      'put `module.bind(variables)` into the plan'
    )
  frozen = getattr(value, '__dataclass_params__', None)
  if not dataclasses.is_dataclass(value) or not (frozen and frozen.frozen):
    raise UserError(
      f'{label} is not a frozen dataclass, so that a plan with it cannot be a '
      'static argument; put @dataclasses.dataclass(frozen=True, kw_only=True) '
      'above the class'
    )
  return value
