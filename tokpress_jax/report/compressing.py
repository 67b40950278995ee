"""Accuracy against tokens of readers that were trained behind compressors.

The numbers are those of each run's last evaluation; nothing is measured again.
"""

from __future__ import annotations

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tokpress_jax import viz
from tokpress_jax.report.training import read_curves

# Of a run, or of another method whose tokens its reader was shown: tokens ->
# accuracy.
Rows = dict[str, dict[int, float]]


def compressing_rows(runs: Mapping[str, str | os.PathLike[str]]) -> Rows:
  """Reads what runs of `CompressorTask` evaluated last.

  Args:
    runs: name -> work directory.

  Returns:
    A row for each run, and `'<run>, reads random'` for each other method that
    its evaluation showed to the same reader; the most tokens first.
  """
  rows: Rows = {}
  for name, run in runs.items():
    for key, (_, values) in read_curves(run).items():
      found = re.fullmatch(r'eval/(accuracy|random|stride|pool)_(\d+)', key)
      if not found:
        continue
      method, count = found[1], int(found[2])
      row = name if method == 'accuracy' else f'{name}, reads {method}'
      rows.setdefault(row, {})[count] = values[-1]
  return {n: dict(sorted(row.items())[::-1]) for n, row in rows.items()}


def compressing_table(rows: Rows) -> str:
  """The rows as a Markdown table, a column for each number of tokens."""
  counts = sorted({n for row in rows.values() for n in row}, reverse=True)
  width = max(map(len, rows), default=0)
  lines = [
    f'| {"tokens":{width}} | ' + ' | '.join(f'{n:<5}' for n in counts) + ' |',
    '|' + '-' * (width + 2) + '|' + '|'.join(['-------'] * len(counts)) + '|',
  ]
  for name, row in rows.items():
    cells = [f'{row[n]:.3f}' if n in row else '     ' for n in counts]
    lines.append(f'| {name:{width}} | ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines)


def compressing_figure(rows: Rows, *, theme: viz.Theme = 'light') -> Any:
  """Accuracy by tokens, a line for each row: a matplotlib figure."""
  series = {n: (list(row), list(row.values())) for n, row in rows.items()}
  return viz.quality_by_tokens(series, y_label='accuracy', theme=theme)


def write_compressing(
  runs: Mapping[str, str | os.PathLike[str]],
  out: str | os.PathLike[str],
) -> tuple[pathlib.Path, str]:
  """Writes the table and pictures of at most six rows each.

  Args:
    runs: see `compressing_rows`.
    out: a folder: `compressors.md`, `compressors.png` (the runs) and
      `same_reader.png` (other tokens for one run's reader).

  Returns:
    The folder, and the table.
  """
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  rows = compressing_rows(runs)
  text = compressing_table(rows)
  (out / 'compressors.md').write_text(f'{text}\n')
  several = {n: r for n, r in rows.items() if n in runs and len(r) > 1}
  others = {n: r for n, r in rows.items() if n not in runs}
  for name, some in (('compressors', several), ('same_reader', others)):
    if some:
      figure = compressing_figure(dict(list(some.items())[:6]))
      figure.patch.set_alpha(1)
      (out / f'{name}.png').write_bytes(viz.figure_png(figure))
  return out, text
