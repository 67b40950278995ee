"""One self-contained HTML page: pictures, numbers, captions.

Pictures are inside the file, nothing is loaded from elsewhere, there is no
script: it can be mailed, opened from a disk or served. It follows the reader's
light or dark setting and fits a phone.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import numbers
import os
from collections.abc import Sequence
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --soft: #5c5c63;
  --line: #e2e2e6; --back: #ffffff; --card: #f6f6f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee;
  --soft: #a2a2aa; --line: #36363b; --back: #17171a; --card: #202024; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 52rem; padding: 1.5rem 1rem 4rem;
  background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 0.4rem; }
p { margin: 0.5rem 0; }
.lead, figcaption, caption { color: var(--soft); }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; }
figcaption, caption { font-size: 0.88rem; text-align: left;
  padding-top: 0.5rem; }
caption { caption-side: bottom; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.32rem 0.9rem 0.32rem 0; text-align: right;
  border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { font-weight: 600; }
pre { overflow-x: auto; background: var(--card); padding: 0.8rem 1rem;
  border-radius: 6px; font-size: 0.85rem; }
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
  """A PNG with a caption that says what it shows and how it was made.

  Attributes:
    png: The file's bytes.
    caption: Shown below it.
    alt: What a reader who cannot see it should know; the caption by default.
    dark_png: Shown instead where the reader prefers dark pages.
  """

  png: bytes
  caption: str
  alt: str | None = None
  dark_png: bytes | None = None

  def html(self) -> str:
    """The element."""
    dark = ''
    if self.dark_png is not None:
      dark = (
        '<source media="(prefers-color-scheme: dark)" '
        f'srcset="{_data(self.dark_png)}">'
      )
    alt = html.escape(self.alt or self.caption, quote=True)
    return (
      f'<figure><picture>{dark}<img src="{_data(self.png)}" alt="{alt}">'
      f'</picture><figcaption>{html.escape(self.caption)}</figcaption></figure>'
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Numbers. Floats are shown with 4 digits; give strings to show others.

  Attributes:
    columns: Heads, with units.
    rows: One value per column; None is shown as a dash.
    caption: What was measured, on what, by which command.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[Any]]
  caption: str

  def __post_init__(self):
    bad = [i for i, r in enumerate(self.rows) if len(r) != len(self.columns)]
    if bad:
      raise ValueError(
        f'Rows {bad} of the table do not have {len(self.columns)} values, '
        f'one for each of {list(self.columns)}.'
      )

  def html(self) -> str:
    """The element."""

    def line(tag: str, values: Sequence[Any]) -> str:
      cells = ''.join(f'<{tag}>{html.escape(cell(v))}</{tag}>' for v in values)
      return f'<tr>{cells}</tr>'

    body = '\n'.join(line('td', row) for row in self.rows)
    return (
      '<div class="scroll"><table><caption>'
      f'{html.escape(self.caption)}</caption><thead>'
      f'{line("th", self.columns)}</thead><tbody>\n{body}\n</tbody></table>'
      '</div>'
    )

  def text(self) -> str:
    """The same table for a terminal."""
    lines = [[cell(v) for v in row] for row in (self.columns, *self.rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return '\n'.join(
      '  '.join(
        text.ljust(width) if i == 0 else text.rjust(width)
        for i, (text, width) in enumerate(zip(row, widths, strict=True))
      ).rstrip()
      for row in lines
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
  """A heading, a paragraph, then pictures and tables.

  Attributes:
    title: The heading.
    text: One paragraph; may be empty.
    items: Shown in order.
    command: A command line that makes these numbers, shown as code.
  """

  title: str
  text: str = ''
  items: Sequence[Picture | Table] = ()
  command: str = ''

  def html(self) -> str:
    """The element."""
    parts = [f'<section><h2>{html.escape(self.title)}</h2>']
    if self.text:
      parts.append(f'<p>{html.escape(self.text)}</p>')
    parts += [item.html() for item in self.items]
    if self.command:
      parts.append(f'<pre>{html.escape(self.command)}</pre>')
    return '\n'.join([*parts, '</section>'])


def page_html(
  title: str, sections: Sequence[Section], *, lead: str = ''
) -> str:
  """The whole page.

  Args:
    title: Shown first, and the window's title.
    sections: In order.
    lead: One paragraph under the title.

  Returns:
    An HTML document without any reference to another file.
  """
  name = html.escape(title)
  body = '\n'.join(section.html() for section in sections)
  opening = f'<p class="lead">{html.escape(lead)}</p>' if lead else ''
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f'<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
    f'<h1>{name}</h1>\n{opening}\n{body}\n</body>\n</html>\n'
  )


def write_page(
  path: str | os.PathLike[str],
  title: str,
  sections: Sequence[Section],
  *,
  lead: str = '',
) -> None:
  """Writes `page_html(...)` to a file, whose directory must exist."""
  with open(path, 'w', encoding='utf-8') as f:
    f.write(page_html(title, sections, lead=lead))


def cell(value: Any) -> str:
  """How a value is shown in a table."""
  if value is None:
    return '–'
  if isinstance(value, str | numbers.Integral):
    return str(value)
  return f'{value:.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def _data(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode('ascii')
