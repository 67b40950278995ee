"""The table of pruners, read off the code.

`tokpress list pruners --markdown` prints it.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from typing import Any

from tokpress_jax import registry

COLUMNS = (
  'name',
  'paper',
  'where it acts',
  'training-free',
  'reads a text',
  'positions',
  'evidence',
  "original's licence",
  'lines',
)


def pruner_table() -> str:
  """All registered pruners of a paper, and learned compressors, in Markdown.

  `lines` are those of the method's file without docstrings, comments and blank
  ones.
  """
  rows = [COLUMNS, ('---',) * len(COLUMNS)]
  rows += [_row(e) for e in registry.entries('pruner') if e.paper]
  rows += [_learned(e) for e in registry.entries('compressor')]
  return '\n'.join(f'| {" | ".join(row)} |' for row in rows)


def _row(entry: registry.Entry) -> tuple[str, ...]:
  cls = registry.resolve(entry.name)
  pruner = cls()
  inside = '.before_llm.' not in entry.target
  given = 'importance' in pruner.needs
  return (
    f'`{entry.name}`',
    entry.paper,
    'inside a ViT' if inside else 'before the language model',
    'scores are given' if given else 'yes',
    'yes' if 'text' in pruner.needs else '',
    _positions(pruner),
    entry.evidence,
    entry.licence,
    str(code_lines(inspect.getsource(inspect.getmodule(cls)))),  # type: ignore[arg-type]
  )


def _learned(entry: registry.Entry) -> tuple[str, ...]:
  """A compressor with weights of its own."""
  cls = registry.resolve(entry.name)
  reads = inspect.signature(type(cls().build()).__call__).parameters
  return (
    f'`{entry.name}`',
    entry.paper,
    'before the language model',
    'no',
    'yes' if 'text' in reads else '',
    'new',
    entry.evidence,
    entry.licence,
    str(code_lines(inspect.getsource(inspect.getmodule(cls)))),  # type: ignore[arg-type]
  )


def _positions(pruner: Any) -> str:
  policy = getattr(pruner, 'positions', '')
  return policy if isinstance(policy, str) else type(policy).__name__.lower()


def code_lines(source: str) -> int:
  """Lines of code in a file, without docstrings, comments and blank ones."""
  skip: set[int] = set()
  for node in ast.walk(ast.parse(source)):
    if not isinstance(
      node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    ):
      continue
    first = node.body[0] if node.body else None
    if (
      isinstance(first, ast.Expr)
      and isinstance(first.value, ast.Constant)
      and isinstance(first.value.value, str)
    ):
      skip |= set(range(first.lineno, (first.end_lineno or 0) + 1))
  code: set[int] = set()
  plain = (
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
  )
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type not in plain:
      code |= set(range(token.start[0], token.end[0] + 1))
  return len(code - skip)
