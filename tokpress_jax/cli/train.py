"""`tokpress train CONFIG.py --workdir DIR`: train, or go on.

The config file gives every field its default; the command line overrides any
of them by its dotted name. Without a file the config in the work directory is
used. Run the same command again and it goes on where it stopped.

Exit codes: 0 done, 2 an error of the user's, 75 told to stop by SIGTERM: the
state is saved, start me again; 130 the same by Ctrl-C (twice: at once).
"""

import argparse
import dataclasses
from collections.abc import Sequence

import tyro

from tokpress_jax import config as config_lib
from tokpress_jax import workdir as workdir_lib
from tokpress_jax.cli import distributed
from tokpress_jax.config import Config
from tokpress_jax.errors import UserError
from tokpress_jax.train.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(Config):
  """Train a config: `tokpress train CONFIG.py --workdir DIR [--FIELD VALUE]`.

  Attributes:
    workdir: Where config, metrics and checkpoints go.
    dry_run: Only print every parameter's sharding and the bytes per device.
  """

  workdir: str = ''
  dry_run: bool = False


def main(argv: Sequence[str]) -> int:
  """Trains, and returns the exit code."""
  flags, config = parse(argv)
  if not flags.workdir and not flags.dry_run:
    raise UserError(
      'A run needs a work directory: add --workdir runs/NAME. (--dry-run needs '
      'none.)'
    )
  distributed.initialize()
  if flags.dry_run:
    from tokpress_jax.train.dry_run import dry_run

    dry_run(config)
    return 0
  from tokpress_jax.train.loop import fit

  fit(config, flags.workdir)
  return 0


def parse(argv: Sequence[str]) -> tuple[Flags, Config]:
  """Reads the config file and the overrides.

  Args:
    argv: A config file, if the work directory has none, then options.

  Returns:
    All options, and the resolved config alone.
  """
  argv = list(argv)
  base = _base(argv)
  fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(Config)}
  flags = tyro.cli(
    Flags,
    default=Flags(**fields),
    args=argv,
    prog='tokpress train CONFIG.py',
    config=(tyro.conf.AvoidSubcommands,),
  )
  return flags, Config(**{name: getattr(flags, name) for name in fields})


def _base(argv: list[str]) -> Config:
  """Takes the config file off `argv`, or reads the work directory's."""
  if argv and not argv[0].startswith('-'):
    return config_lib.load(argv.pop(0))
  finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
  finder.add_argument('--workdir')
  found = finder.parse_known_args(argv)[0].workdir
  if {'-h', '--help'} & set(argv) and not found:
    return Config(name='NAME', task=Task())  # The fields that all tasks share.
  if not found:
    raise UserError(
      'Give a config file first, such as: tokpress train configs/x.py '
      '--workdir runs/x. With only --workdir, a run that is there goes on.'
    )
  return workdir_lib.read_config(found)
