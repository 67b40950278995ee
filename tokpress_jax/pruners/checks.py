"""What is wrong with the arguments of a pruner, a selector or a merger.

Shapes and static numbers are checked always, values outside of `jit`: of arrays
that this process can look at.

Dimension letters: B batch, N token slots.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from tokpress_jax.arrays import concrete, rows_where
from tokpress_jax.errors import UserError
from tokpress_jax.types import Array

# (name, value, least, most) of a static number; None is no bound.
Static = tuple[str, int, int, int | None]
Ranges = tuple[tuple[str, float, float | None], ...]


def refuse(what: str, causes: Sequence[str]) -> None:
  """Raises one error of all causes, if there are any.

  Args:
    what: cannot run, for the first line.
    causes: a line each.

  Raises:
    UserError: lists them.
  """
  if causes:
    raise UserError(f'{what} cannot run:\n  ' + '\n  '.join(causes))


def row_counts(
  count: Array | int,
  *,
  valid: Array,
  protected: Array | None = None,
  least: int = 1,
  static: Sequence[Static] = (),
  **arrays: Array | None,
) -> Array:
  """Checks what a selector or merger is given, and writes its count out.

  Args:
    count: tokens of each row, int [B], or one number for all rows. A number
      must lie within what the longest row has; entries of an array within the
      slots, and are clipped to what their row has, as a padded row needs.
    valid: [B, N] bool.
    protected: [B, N] bool, tokens that do not count.
    least: the smallest number that makes sense; 0 where nothing may happen.
      Entries of an array may always be 0: a row may have no tokens.
    static: see `static_causes`.
    **arrays: by name, what must begin with [B, N].

  Returns:
    int32 [B].

  Raises:
    UserError: lists all that does not fit.
  """
  batch, slots = valid.shape
  given = {'protected': protected, **arrays}
  causes = [
    f'{name} must begin with [B={batch}, N={slots}] as valid does, got '
    f'{x.shape}'
    for name, x in given.items()
    if x is not None and x.shape[:2] != valid.shape
  ]
  causes += static_causes(static)
  if isinstance(count, int | np.integer) and not isinstance(count, bool):
    most = slots if causes else _longest(valid, protected)
    if not least <= count <= max(most, least):
      causes.append(
        f'count={count} is outside {least} to {most}, the tokens of the '
        'longest row beside its protected ones; give a number in that range, '
        f'or one for each row as int [B={batch}]'
      )
    refuse('this', causes)
    return jnp.full((batch,), count, jnp.int32)
  shape, dtype = getattr(count, 'shape', None), getattr(count, 'dtype', object)
  if shape != (batch,) or not jnp.issubdtype(dtype, jnp.integer):
    causes.append(
      f'count must be one whole number, or int [B={batch}], got '
      + (repr(count) if shape is None else f'{dtype} {shape}')
    )
  elif concrete(count):
    value = np.asarray(count)
    if bad := rows_where((value < 0) | (value > slots)):
      causes.append(
        f'count of rows {bad} is outside 0 to {slots}, the slots of a row'
      )
  refuse('this', causes)
  return jnp.asarray(count, jnp.int32)


def static_causes(static: Sequence[Static]) -> list[str]:
  """Finds static numbers (name, value, least, most) out of their range."""
  return [
    f'{name}={value} is '
    + (f'below {least}' if most is None else f'outside {least} to {most}')
    for name, value, least, most in static
    if value < least or (most is not None and value > most)
  ]


def slots_causes(kept: Array, capacity: int) -> list[str]:
  """Finds rows of a concrete mask that have more tokens than slots.

  Args:
    kept: [B, N] bool.
    capacity: K.
  """
  if causes := static_causes([('capacity', capacity, 0, None)]):
    return causes
  if not concrete(kept):
    return []
  number = np.asarray(kept).sum(axis=1)
  if not (bad := rows_where(number > capacity)):
    return []
  return [
    f'rows {bad} keep up to {number.max()} tokens, and capacity={capacity} '
    'slots hold fewer; raise the capacity'
  ]


def mask_causes(name: str, mask: Any, like: Array) -> list[str]:
  """Finds what is no mask over the slots.

  Args:
    name: of the mask.
    mask: as given.
    like: [B, N].
  """
  batch, slots = like.shape
  shape, dtype = getattr(mask, 'shape', None), getattr(mask, 'dtype', None)
  if shape == like.shape and dtype == np.dtype(bool):
    return []
  got = f'{dtype} {shape}' if shape is not None else type(mask).__name__
  hint = ''
  if isinstance(mask, tuple):
    got = f'a tuple of {len(mask)}'
    hint = '; selectors give (kept, rank): take the first, as kept, _ = ...'
  return [
    f'{name} must be a mask, bool [B={batch}, N={slots}], got {got}{hint}'
  ]


def _longest(valid: Array, protected: Array | None) -> int:
  """Unprotected tokens of the longest row, N if they cannot be counted."""
  if not concrete(valid, protected):
    return valid.shape[1]
  free = np.asarray(valid)
  if protected is not None:
    free = free & ~np.asarray(protected)
  return int(free.sum(axis=1).max(initial=0))


def field_causes(pruner: Any) -> list[str]:
  """Finds fields of a dataclass that are no choice, or no number.

  Args:
    pruner: of which fields of the type `Literal[...]` have one of its values,
      and those of numbers, or tuples of them, hold such, and finite ones. Its
      class may have `ranges`: (field, least, most) of numbers, None is no
      bound.
  """
  causes = []
  cls: Any = type(pruner)
  for name, choices in _choices(cls).items():
    if (value := getattr(pruner, name)) not in choices:
      shown = ', '.join(map(repr, choices))
      causes.append(f'unknown {name} {value!r}; try one of {shown}')
  hints = _hints(cls)
  for field in dataclasses.fields(pruner):
    value = getattr(pruner, field.name)
    if cause := _number_cause(field.name, value, hints.get(field.name)):
      causes.append(cause)
  if causes:
    return causes
  for name, least, most in getattr(cls, 'ranges', ()):
    value = getattr(pruner, name)
    if value is None or least <= value <= (value if most is None else most):
      continue
    range_ = (
      f'is at least {least}' if most is None else f'lies in {least} to {most}'
    )
    causes.append(f'{name} {range_}, got {value}')
  return causes


def _number_cause(name: str, value: Any, hint: Any) -> str | None:
  """Says why a field is not the number, or the numbers, of its type."""
  if isinstance(value, float) and not math.isfinite(value):
    return f'{name} is {value}; give a finite number'
  parts = typing.get_args(hint)
  if type(None) in parts and len(parts) == 2:  # or None
    if value is None:
      return None
    hint = next(part for part in parts if part is not type(None))
  if typing.get_origin(hint) is tuple and (kind := _kind(parts[0])):
    fixed = None if parts[-1] is Ellipsis else len(parts)
    many = isinstance(value, tuple) and all(_holds(kind, x) for x in value)
    if many and fixed in (None, len(value)):
      return None
    number = 'numbers' if fixed is None else f'{fixed} numbers'
    whole = 'whole ' if kind is int else ''
    return f'{name} is a tuple of {whole}{number}, got {value!r}'
  if (kind := _kind(hint)) and not _holds(kind, value):
    return f'{name} is a {"whole " if kind is int else ""}number, got {value!r}'
  return None


def _kind(hint: Any) -> type | None:
  """Int or float, if it is one."""
  return hint if hint in (int, float) else None


def _holds(kind: type, value: Any) -> bool:
  """Whether a value is a number of the kind; a bool is none."""
  known = (int, np.integer) if kind is int else (int, float, np.number)
  return isinstance(value, known) and not isinstance(value, bool)


@functools.cache
def _choices(cls: Any) -> dict[str, tuple[Any, ...]]:
  """Fields that have one of a few values, and these."""
  hints = _hints(cls)
  return {
    field.name: typing.get_args(hints[field.name])
    for field in dataclasses.fields(cls)
    if typing.get_origin(hints.get(field.name)) is typing.Literal
  }


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
  """Types of a class's fields; none if its annotations are not there."""
  try:
    return typing.get_type_hints(cls)
  except (NameError, TypeError):
    return {}
