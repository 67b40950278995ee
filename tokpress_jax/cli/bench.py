"""`tokpress bench NAME --json FILE`."""

import ast
import dataclasses
from collections.abc import Sequence
from typing import Any

import tyro

from tokpress_jax import bench
from tokpress_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Time something: `tokpress bench NAME [--json FILE] [--OPTION VALUE ...]`.

  Attributes:
    name: The benchmark; without one they are listed.
    json: Write the report to this file.
  """

  name: tyro.conf.Positional[str] = ''
  json: str | None = None


def main(argv: Sequence[str]) -> None:
  """Prints the rows as a table."""
  if len(argv) > 1 and argv[0][:1] != '-' and {'-h', '--help'} & set(argv):
    print(bench.describe(argv[0]))
    return
  if argv and argv[0] in ('-h', '--help'):
    print(
      'The benchmarks, each with a `--help` of its own:', _names(), sep='\n'
    )
  flags, rest = tyro.cli(
    Flags, args=list(argv), prog='tokpress bench', return_unknown_args=True
  )
  if not flags.name:
    print(_names())
    return
  report = bench.run(flags.name, flags.json, **_options(rest))
  print(bench.table(report))
  if report.get('summary'):
    print(report['summary'])


def _names() -> str:
  """The benchmarks, a line each."""
  found = bench.list_benches().items()
  return '\n'.join(f'{name:16} {line}' for name, line in found)


def _options(words: Sequence[str]) -> dict[str, Any]:
  """Reads '--repeats 5 --sizes 8 16' as {'repeats': 5, 'sizes': (8, 16)}."""
  options: dict[str, list[Any]] = {}
  name = None
  for word in words:
    if word.startswith('--'):
      name = word[2:].replace('-', '_')
      options[name] = []
    elif name is None:
      raise UserError(f'Expected an option such as --repeats, got {word!r}.')
    else:
      options[name].append(_value(word))
  return {
    name: values[0] if len(values) == 1 else tuple(values) or True
    for name, values in options.items()
  }


def _value(word: str) -> Any:
  try:
    return ast.literal_eval(word)
  except (ValueError, SyntaxError):
    return word
