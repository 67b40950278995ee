"""`tokpress data prepare | describe | list`."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import tyro

from tokpress_jax import data
from tokpress_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Prepare a data set for training, describe one, or list what there is.

  Attributes:
    action: What to do.
    name: The data set: an embedded one, `folder`, or any TFDS name (preparing
      those needs `pip install 'tokpress_jax[prepare]'`).
    data_dir: Where data sets lie; of `folder`, the images.
  """

  action: tyro.conf.Positional[Literal['prepare', 'describe', 'list']]
  name: tyro.conf.Positional[str] = ''
  data_dir: str | None = None


def main(argv: Sequence[str]) -> None:
  """Runs the action."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress data')
  if flags.action == 'list':
    rows = data.list_datasets(flags.data_dir)
    width = max(len(name) for name, _ in rows)
    for name, line in rows:
      print(f'{name:{width}}  {line}')
    return
  if not flags.name:
    raise UserError(
      f'`tokpress data {flags.action}` needs a name; `tokpress data list` '
      'shows some.'
    )
  if flags.action == 'prepare':
    print(data.prepare(flags.name, flags.data_dir))
  else:
    config = data.DataConfig(name=flags.name, data_dir=flags.data_dir)
    print(data.describe(config))
