"""Released weights by name: where they are, and the configs that they fit.

A row is what `load('var-d16')` and `tokpress convert var-d16 FILE` need. A
*kind* is a layout of names that several files share: `tokpress convert var
FILE` reads the sizes from the file itself.
"""

from __future__ import annotations

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.released.kinds import KINDS, NETWORKS, Kind, Network
from tokpress_jax.released.row import Released
from tokpress_jax.released.rows import RELEASED

__all__ = [
  'KINDS',
  'NETWORKS',
  'RELEASED',
  'Kind',
  'Network',
  'Released',
  'kind_of',
  'list_released',
]


def kind_of(name: str) -> tuple[Kind, Released | None]:
  """A kind by its name or by that of a released file.

  Args:
    name: Such as 'var' (any file of that layout) or 'var-d16' (that one).

  Returns:
    The kind, and the row if the name is a released file's.

  Raises:
    UserError: There is no such name; the nearest are given.
  """
  row = RELEASED.get(name)
  if name in KINDS:
    # A kind that is called as its file reads the sizes off the tensors.
    return KINDS[name], None
  if row is None:
    names = {**KINDS, **RELEASED, **NETWORKS}
    raise UserError(
      f'There are no released weights {name!r}. {did_you_mean(name, names)}'
    )
  return KINDS[row.kind], row


def list_released() -> tuple[Released, ...]:
  """Returns the published files that `load` knows by name."""
  return tuple(RELEASED.values())
