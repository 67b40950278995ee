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

_INK = {'light': '#3a3a3a', 'dark': '#d0d0d0'}
_GRID = {'light': '#e4e4e4', 'dark': '#3a3a3a'}
_LINES = {
  'light': ('#0b62a8', '#c4500c', '#15803d', '#7a3fa0', '#6b7280'),
  'dark': ('#63b3f4', '#f59e5b', '#5fd08d', '#c79ae6', '#a3a8b0'),
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
  from matplotlib.figure import Figure

  if len(series) > len(_LINES[theme]):
    raise ValueError(
      f'{len(series)} series; expected at most {len(_LINES[theme])} in one '
      'figure. Draw two.'
    )
  figure = Figure(figsize=(5.6, 3.4), dpi=144, layout='constrained')
  figure.patch.set_alpha(0)
  axes = figure.add_subplot()
  axes.patch.set_alpha(0)
  for (name, (x, y)), color in zip(series.items(), _LINES[theme], strict=False):
    # A long series is a curve, not a row of points.
    marker = 'o' if markers and len(x) <= 40 else None
    axes.plot(x, y, label=name, color=color, marker=marker, ms=4.5, lw=1.8)
  if x_log2:
    ticks = sorted({v for x, _ in series.values() for v in x})
    axes.set_xscale('log', base=2)
    axes.set_xticks(ticks, [f'{v:g}' for v in ticks])
    axes.minorticks_off()
  axes.set_xlabel(x_label)
  axes.set_ylabel(y_label)
  ink = _INK[theme]
  axes.grid(color=_GRID[theme], lw=0.8)
  axes.set_axisbelow(True)
  axes.tick_params(colors=ink, length=0)
  for side, spine in axes.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(ink)
  for label in (axes.xaxis.label, axes.yaxis.label):
    label.set_color(ink)
  if len(series) > 1:
    axes.legend(frameon=False, labelcolor=ink)
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
