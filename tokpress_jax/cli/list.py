"""`tokpress list [models | weights | pruners | tasks | datasets]`."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from tokpress_jax import registry, released
from tokpress_jax.errors import UserError

_FAMILIES: dict[str, tuple[registry.Family, ...]] = {
  'models': (
    'tokenizer',
    'generator',
    'model',
    'encoder',
    'compressor',
    'reader',
  ),
  'pruners': ('pruner',),
  'tasks': ('task',),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """List what there is: name, family, evidence, licence, paper.

  Attributes:
    what: One kind only; all by default.
    markdown: Of pruners, the table of the README.
  """

  what: tyro.conf.Positional[
    Literal['all', 'models', 'weights', 'pruners', 'tasks', 'datasets']
  ] = 'all'
  markdown: bool = False


def main(argv: Sequence[str]) -> None:
  """Prints the tables."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress list')
  if flags.markdown:
    if flags.what != 'pruners':
      raise UserError('--markdown is of `tokpress list pruners`')
    from tokpress_jax.report import methods

    print(methods.pruner_table())
    return
  for kind, families in _FAMILIES.items():
    if flags.what not in ('all', kind):
      continue
    print(f'{kind}:')
    for family in families:
      for entry in registry.entries(family):
        facts = [entry.evidence, entry.licence, entry.paper]
        line = f'  {entry.name:16} {entry.family:10} '
        print(line + '; '.join(f for f in facts if f))
  if flags.what in ('all', 'weights'):
    print('weights:')
    for row in released.list_released():
      licence = released.KINDS[row.kind].licence
      where = f'{row.file} of huggingface.co/{row.repository}'
      if not row.repository:
        where = f'{row.file}, see the page of its code'
      size = f'{row.parameters / 1e6:.0f}M' if row.parameters else '?'
      print(f'  {row.name:35} {row.kind:14} {size:>6} {licence}; {where}')
  if flags.what in ('all', 'datasets'):
    from tokpress_jax import data

    print('datasets:')
    for name, line in data.list_datasets():
      print(f'  {name:16} {line}')
