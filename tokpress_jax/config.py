"""A whole run as one value: what is trained, on what, how, and where.

A config is built of frozen dataclasses without dicts, so that it is hashable,
comparable, and every field has one dotted name (`train.steps`) for the command
line, for messages, and in `config.json`.

In JSON, a dataclass that the registry knows carries its registry name as
"type". Reading imports nothing that the registry does not list: a config.json
from a stranger can name a model, not run code.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import types
import typing
from collections.abc import Iterator
from typing import Any

from tokpress_jax import registry
from tokpress_jax.data.config import DataConfig
from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io.python_file import import_file
from tokpress_jax.train.config import MeshConfig, OptimConfig, TrainConfig
from tokpress_jax.train.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
  """A training run.

  Attributes:
    name: What the run is called, in logs and model cards.
    task: The model and its losses.
    data: The images.
    train: How long, how much at once, what is written down.
    optim: The optimiser.
    mesh: The devices.
  """

  name: str
  task: Task = dataclasses.field(metadata={'identity': True})
  data: DataConfig = DataConfig()
  train: TrainConfig = TrainConfig()
  optim: OptimConfig = OptimConfig()
  mesh: MeshConfig = MeshConfig()


def identity(config: Any) -> dict[str, Any]:
  """Returns what must be equal for a run to be resumed.

  A field counts if its metadata says `identity: True`, or if a dataclass above
  it does and its own metadata does not say `identity: False`.

  Args:
    config: A config dataclass.

  Returns:
    JSON values by dotted name; 'task.type' names the kind of task.
  """
  return dict(_leaves(config, '', only_identity=True))


def diff(old: Any, new: Any, *, only_identity: bool = False) -> list[str]:
  """Returns one line, 'train.seed: 0 -> 1', per field that differs."""
  a = dict(_leaves(old, '', only_identity=only_identity))
  b = dict(_leaves(new, '', only_identity=only_identity))
  show = lambda side, key: json.dumps(side[key]) if key in side else 'absent'
  keys = list(dict.fromkeys((*a, *b)))
  return [
    f'{key}: {show(a, key)} -> {show(b, key)}'
    for key in keys
    if (key in a, a.get(key)) != (key in b, b.get(key))
  ]


def to_json(config: Any) -> dict[str, Any]:
  """Returns a config dataclass as what `json.dumps` takes.

  Raises:
    UserError: A field holds a dataclass that its type does not name and the
      registry does not know, or a value that is no config value.
  """
  return _encode(config, type(config), '')


def from_json(data: Any, cls: type = Config) -> Any:
  """Reads what `to_json` gave.

  Args:
    data: Parsed JSON.
    cls: The expected dataclass; an object with a "type" may be any registered
      subclass of it.

  Raises:
    UserError: An unknown or missing field, type or value, by its dotted name.
  """
  return _decode(data, cls, '')


def load(path: str | os.PathLike[str]) -> Config:
  """Runs a config file, `configs/<x>.py`, and returns its `get_config()`.

  Raises:
    UserError: There is no such file, or no `get_config` that gives a `Config`.
  """
  path = pathlib.Path(path)
  if not path.is_file() or path.suffix != '.py':
    near = [p.name for p in path.parent.glob('*.py')]
    close = difflib.get_close_matches(path.name, near, n=3)
    hint = f' Did you mean {" or ".join(close)}?' if close else ''
    raise UserError(
      f'There is no config file {str(path)!r}; expected a Python file with '
      f'get_config(), such as configs/one_d_digits.py.{hint}'
    )
  module = import_file(path, name=f'tokpress_config_{path.stem}')
  if not hasattr(module, 'get_config'):
    raise UserError(f'{path} defines no get_config().')
  config = module.get_config()
  if not isinstance(config, Config):
    raise UserError(
      f'get_config() of {path} returned {type(config).__name__}; expected '
      'tokpress_jax.config.Config.'
    )
  return config


def _leaves(
  value: Any, name: str, *, only_identity: bool, inside: bool = False
) -> Iterator[tuple[str, Any]]:
  """Yields (dotted name, JSON value) of the fields, in their order."""
  dotted = lambda field: f'{name}.{field}' if name else field
  if registry.name_of(type(value)) and (inside or not only_identity):
    yield dotted('type'), registry.name_of(type(value))
  for field in dataclasses.fields(value):
    counts = field.metadata.get('identity', inside)
    child = getattr(value, field.name)
    if dataclasses.is_dataclass(child):
      yield from _leaves(
        child,
        dotted(field.name),
        only_identity=only_identity,
        inside=counts,
      )
    elif counts or not only_identity:
      yield dotted(field.name), _encode(child, Any, dotted(field.name))


def _encode(value: Any, hint: Any, where: str) -> Any:
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    cls = type(value)
    kind = registry.name_of(cls)
    if kind is None and hint is not Any and cls not in _options(hint):
      raise UserError(
        f'{where or "The config"} holds a {cls.__name__}, which the registry '
        'does not know: add a row to tokpress_jax/registry.py, or call '
        'tokpress_jax.registry.register in the config file.'
      )
    hints = typing.get_type_hints(cls)
    out = {} if kind is None else {'type': kind}
    for field in dataclasses.fields(cls):
      child = f'{where}.{field.name}' if where else field.name
      out[field.name] = _encode(
        getattr(value, field.name), hints[field.name], child
      )
    return out
  if isinstance(value, list | tuple):
    return [_encode(v, hint, f'{where}[{i}]') for i, v in enumerate(value)]
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise UserError(
    f'{where} holds a {type(value).__name__}; a config holds numbers, strings, '
    'None, tuples and dataclasses of these.'
  )


def _options(hint: Any) -> tuple[Any, ...]:
  """Returns the classes that a type names: all of a union's, a tuple's."""
  inner = typing.get_args(hint)
  if not inner or typing.get_origin(hint) is typing.Literal:
    return (hint,)
  return tuple(o for arg in inner for o in _options(arg))


def _decode(value: Any, hint: Any, where: str) -> Any:
  origin, args = typing.get_origin(hint), typing.get_args(hint)
  if isinstance(value, dict) and (
    'type' in value or dataclasses.is_dataclass(hint)
  ):
    return _decode_dataclass(value, hint, where)
  if origin in (typing.Union, types.UnionType):
    return _decode_union(value, args, where)
  if origin is tuple and isinstance(value, list):
    if args[-1] is Ellipsis:
      args = (args[0],) * len(value)
    if len(args) == len(value):
      return tuple(
        _decode(v, a, f'{where}[{i}]')
        for i, (v, a) in enumerate(zip(value, args, strict=True))
      )
  elif origin is typing.Literal:
    if value in args:
      return value
  elif hint is float and type(value) in (int, float):
    return float(value)
  elif hint is type(None) and value is None:
    return None
  elif hint is Any:
    return tuple(value) if isinstance(value, list) else value
  elif hint in (int, str, bool) and type(value) is hint:
    return value
  raise UserError(f'{where} is {json.dumps(value)}; expected {_show(hint)}.')


def _decode_union(value: Any, args: tuple[Any, ...], where: str) -> Any:
  reasons = []
  for arg in args:
    try:
      return _decode(value, arg, where)
    except UserError as error:
      reasons.append(str(error))
  raise UserError(' Or: '.join(reasons))


def _decode_dataclass(data: dict[str, Any], hint: Any, where: str) -> Any:
  data = dict(data)
  place = where or 'The config'
  cls = hint
  if 'type' in data:
    cls = registry.resolve(data.pop('type'))
    allowed = tuple(o for o in _options(hint) if isinstance(o, type))
    if hint is not Any and not issubclass(cls, allowed):
      raise UserError(
        f'{place} has type {registry.name_of(cls)!r}; expected a '
        f'{" or ".join(o.__name__ for o in allowed)}.'
      )
  fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
  unknown = [name for name in data if name not in fields]
  required = [
    name
    for name, f in fields.items()
    if f.default is dataclasses.MISSING
    and f.default_factory is dataclasses.MISSING
  ]
  missing = [name for name in required if name not in data]
  lines = [f'unknown field {n!r}. {did_you_mean(n, fields)}' for n in unknown]
  lines += [f'missing field {n!r}.' for n in missing]
  if lines:
    raise UserError(f'{place} ({cls.__name__}): ' + ' '.join(lines))
  hints = typing.get_type_hints(cls)
  values = {
    name: _decode(value, hints[name], f'{where}.{name}' if where else name)
    for name, value in data.items()
  }
  try:
    return cls(**values)
  except ValueError as error:
    raise UserError(f'{place}: {error}') from error


def _show(hint: Any) -> str:
  return hint.__name__ if isinstance(hint, type) else str(hint)
