"""Sets of tokens: the files `SPLIT-00003-of-00079.tok` of one directory.

A set is complete when all its files are there, each being whole (see
`io.tokens`): so several processes may write one, each its own files, and what
was interrupted goes on with the files that are missing.
"""

import os
import pathlib
import re

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.io.tokens import SUFFIX

_NAME = re.compile(rf'(.+)-(\d{{5}})-of-(\d{{5}}){re.escape(SUFFIX)}')


def shard_path(
  directory: str | os.PathLike[str], split: str, number: int, count: int
) -> pathlib.Path:
  """Returns the path of one file of a set."""
  name = f'{split}-{number:05}-of-{count:05}{SUFFIX}'
  return pathlib.Path(directory).expanduser() / name


def list_sets(
  directory: str | os.PathLike[str],
) -> dict[str, dict[int, list[int]]]:
  """Lists the sets of a directory.

  Returns:
    Split -> number of files that it should have -> the files that are there.
    More than one number is two sets in one place.
  """
  found: dict[str, dict[int, list[int]]] = {}
  for path in sorted(pathlib.Path(directory).expanduser().glob(f'*{SUFFIX}')):
    match = _NAME.fullmatch(path.name)
    if match:
      split, number, count = match[1], int(match[2]), int(match[3])
      found.setdefault(split, {}).setdefault(count, []).append(number)
  return found


def files_of(path: str | os.PathLike[str]) -> tuple[pathlib.Path, ...]:
  """A token file, or those of the only set of a directory.

  Raises:
    UserError: A directory holds no tokens, several sets, or half a set.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_dir():
    return (path,)
  known = list_sets(path)
  if len(known) == 1:
    return find(path, next(iter(known)))
  files = tuple(sorted(path.glob(f'*{SUFFIX}')))
  if known or not files:
    raise UserError(
      f'{path} holds {len(known) or "no"} sets of tokens'
      f'{" (" + ", ".join(known) + ")" if known else ""}; name the files.'
    )
  return files


def find(
  directory: str | os.PathLike[str], split: str
) -> tuple[pathlib.Path, ...]:
  """Returns the files of a set, in order.

  Raises:
    UserError: There is no such set, or it is not complete.
  """
  if not pathlib.Path(directory).expanduser().is_dir():
    raise UserError(
      f'There is no directory of tokens {os.fspath(directory)!r}.'
    )
  known = list_sets(directory)
  if split not in known:
    raise UserError(
      f'{directory} holds no tokens of a split {split!r}. '
      f'{did_you_mean(split, known)} `tokpress encode MODEL --data NAME '
      f'--split {split} --out {directory}` writes them.'
    )
  if len(known[split]) > 1:
    counts = ' and '.join(map(str, known[split]))
    raise UserError(
      f'{directory} holds two sets of the split {split!r}, of {counts} files. '
      'Remove one.'
    )
  ((count, numbers),) = known[split].items()
  missing = [n for n in range(count) if n not in numbers]
  if missing:
    shown = ', '.join(map(str, missing[:10])) + ', ...' * (len(missing) > 10)
    raise UserError(
      f'The tokens of the split {split!r} in {directory} are not complete: of '
      f'{count} files {len(missing)} are missing ({shown}). Run the same '
      '`tokpress encode` again; it writes what is missing.'
    )
  return tuple(shard_path(directory, split, n, count) for n in range(count))
