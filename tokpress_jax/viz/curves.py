"""Curves with matplotlib (extra `viz`), in a light and a dark theme.

Each function returns a matplotlib `Figure` that belongs to no window and no
global state; `figure_png` gives its bytes, and `both_themes` the pair that
`page.Picture` shows according to the reader's setting.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
  from matplotlib.figure import Figure

Theme = Literal['light', 'dark']
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]

INK = {'light': '#3a3a3a', 'dark': '#d0d0d0'}
_GRID = {'light': '#e4e4e4', 'dark': '#3a3a3a'}
LINES = {
  'light': ('#0b62a8', '#c4500c', '#15803d', '#7a3fa0', '#6b7280', '#b08900'),
  'dark': ('#63b3f4', '#f59e5b', '#5fd08d', '#c79ae6', '#a3a8b0', '#e6c84f'),
}


def curve(
  series: Series,
  *,
  x_label: str,
  y_label: str,
  x_log2: bool = False,
  markers: bool = True,
  theme: Theme = 'light',
) -> Figure:
  """Lines with markers, one per named series.

  Args:
    series: Name -> (x, y).
    x_label: With its unit.
    y_label: With its unit.
    x_log2: A logarithmic x axis that is marked at the series' x values.
    markers: Whether each point is marked.
    theme: Colours for a light or a dark background; the background itself is
      transparent.
  """
  if len(series) > len(LINES[theme]):
    raise ValueError(
      f'{len(series)} series; expected at most {len(LINES[theme])} in one '
      'figure. Draw two.'
    )
  figure, (axes,) = blank(1, size=(5.6, 3.4), theme=theme)
  figure.patch.set_alpha(0)
  for (name, (x, y)), color in zip(series.items(), LINES[theme], strict=False):
    # A long series is a curve, not a row of points.
    marker = 'o' if markers and len(x) <= 40 else None
    axes.plot(x, y, label=name, color=color, marker=marker, ms=4.5, lw=1.8)
  if x_log2:
    _powers(axes, series)
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  dress(axes, theme)
  if len(series) > 1:
    axes.legend(frameon=False, labelcolor=INK[theme])
  return figure


def _powers(axes: Any, series: Series) -> None:
  """A logarithmic x axis, marked at the series' x values."""
  ticks = sorted({v for x, _ in series.values() for v in x})
  axes.set_xscale('log', base=2)
  axes.set_xticks(ticks, [f'{v:g}' for v in ticks])
  axes.minorticks_off()


def blank(
  count: int, *, size: tuple[float, float], theme: Theme = 'light'
) -> tuple[Figure, list[Any]]:
  """A figure with blank axes side by side, for `dress` to finish.

  Args:
    count: Of the axes.
    size: Width and height in inches.
    theme: See `curve`; the light one has a white background, so that the
      picture may stand anywhere.
  """
  from matplotlib.figure import Figure

  figure = Figure(figsize=size, dpi=144, layout='constrained')
  figure.patch.set_facecolor('white')
  figure.patch.set_alpha(float(theme == 'light'))
  row = list(figure.subplots(1, count, squeeze=False)[0])
  for axes in row:
    axes.patch.set_alpha(0)
  return figure, row


def dress(axes: Any, theme: Theme, *, title: str = '') -> None:
  """Grid, inks, spines and a title."""
  ink = INK[theme]
  if title:
    axes.set_title(title, color=ink, fontsize=10, loc='left')
  axes.grid(color=_GRID[theme], lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=ink, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(ink)
  for label in (axes.xaxis.label, axes.yaxis.label):
    label.set_color(ink)


def panels(
  parts: Sequence[tuple[str, str, Series]],
  *,
  x_label: str,
  x_log2: bool = False,
  key: str = '',
  theme: Theme = 'light',
) -> Figure:
  """Curves over one x axis in panels side by side, with one legend.

  Args:
    parts: (title, y label, name -> (x, y)) of each panel. A name has the same
      colour in all of them; a panel with the single name '' is not in the
      legend.
    x_label: With its unit.
    x_log2: See `curve`; then each point is marked.
    key: What the names are, in front of the legend.
    theme: See `blank`.
  """
  names = list(dict.fromkeys(n for _, _, s in parts for n in s if n))
  # An ordered set of names, such as scales, as shades of one colour.
  shades = _shades(len(names), theme)
  size = 3.4 * len(parts), 3.0
  figure, row = blank(len(parts), size=size, theme=theme)
  lines = {}
  for axes, (title, y_label, series) in zip(row, parts, strict=True):
    for name, (x, y) in series.items():
      color = shades[names.index(name)] if name else LINES[theme][1]
      marker = 'o' if x_log2 else None
      (lines[name],) = axes.plot(
        x, y, color=color, marker=marker, ms=4.5, lw=1.6
      )
    if x_log2:
      _powers(axes, series)
    dress(axes, theme, title=title)
    axes.set_ylabel(y_label)
    axes.set_xlabel(x_label)
  shown = [n for n in names if n in lines]
  if shown:
    figure.legend(
      [lines[n] for n in shown],
      shown,
      title=key or None,
      loc='outside right center',
      frameon=False,
      labelcolor=INK[theme],
    )
  return figure


def _shades(count: int, theme: Theme) -> list[Any]:
  """Colours from faint to strong, all visible on the background."""
  from matplotlib import colormaps

  low, high = (0.35, 0.95) if theme == 'light' else (0.9, 0.4)
  step = (high - low) / max(count - 1, 1)
  return [colormaps['Blues'](low + i * step) for i in range(count)]


def beside_zero(
  parts: Sequence[tuple[str, float, Mapping[str, Mapping[str, float]]]],
  *,
  names: Sequence[str],
  x_label: str,
  theme: Theme = 'light',
) -> Figure:
  """Differences of named rows to a baseline, as dots beside a line at zero.

  Args:
    parts: (title, half width of the band about zero, row -> name -> difference)
      of each panel. The rows of each are sorted by their means.
    names: of the dots, an ordered set such as budgets, as shades of one colour
      from strong to faint.
    x_label: With its unit.
    theme: See `blank`.
  """
  shades = dict(zip(names, _shades(len(names), theme)[::-1], strict=True))
  most = max(len(series) for _, _, series in parts)
  figure, row = blank(
    len(parts), size=(4.4 * len(parts), 1.0 + 0.24 * most), theme=theme
  )
  dots = {}
  for axes, (title, band, series) in zip(row, parts, strict=True):
    means = {n: sum(r.values()) / len(r) for n, r in series.items()}
    ranked = sorted(means, key=means.__getitem__)
    axes.axvspan(-band, band, color=_GRID[theme], lw=0)
    axes.axvline(0, color=INK[theme], lw=1.2)
    for y, which in enumerate(ranked):
      values = series[which]
      axes.plot(
        [min(values.values()), max(values.values())],
        [y, y],
        color=_GRID[theme],
        lw=1.6,
        zorder=1,
      )
      for name, x in values.items():
        dots[name] = axes.scatter(x, y, color=shades[name], s=26, zorder=2)
    dress(axes, theme, title=title)
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_ylim(-0.6, len(ranked) - 0.4)
    axes.set_xlabel(x_label)
  figure.legend(
    [dots[name] for name in names if name in dots],
    [name for name in names if name in dots],
    loc='outside right center',
    frameon=False,
    labelcolor=INK[theme],
  )
  return figure


def quality_by_tokens(
  series: Series, *, y_label: str = 'PSNR (dB)', theme: Theme = 'light'
) -> Figure:
  """Quality as a function of the tokens kept.

  Args:
    series: Name of the tokenizer -> (tokens, quality).
    y_label: The measure.
    theme: See `curve`.
  """
  return curve(
    series, x_label='tokens kept', y_label=y_label, x_log2=True, theme=theme
  )


def rate_distortion(series: Series, *, theme: Theme = 'light') -> Figure:
  """PSNR against bits per image.

  Args:
    series: Name of the coder -> (bits per image, PSNR in dB).
    theme: See `curve`.
  """
  return curve(
    series, x_label='bits per image', y_label='PSNR (dB)', theme=theme
  )


def loss_curve(
  series: Series, *, y_label: str = 'loss', theme: Theme = 'light'
) -> Figure:
  """Training curves: name -> (steps, loss)."""
  return curve(
    series, x_label='step', y_label=y_label, markers=False, theme=theme
  )


def figure_png(figure: Figure) -> bytes:
  """The bytes of a PNG file."""
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png')
  return buffer.getvalue()


def both_themes(draw: Callable[..., Figure], *args: Any, **kwargs: Any):
  """PNG bytes of `draw(..., theme='light')` and of the dark one.

  Returns:
    `(light, dark)`, as `page.Picture(png=light, dark_png=dark)` takes them.
  """
  light, dark = (
    figure_png(draw(*args, theme=theme, **kwargs))
    for theme in ('light', 'dark')
  )
  return light, dark
