"""Curves: what is drawn, in both themes, without global state."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tokpress_jax import viz

pytest.importorskip('matplotlib')

_SERIES = {'ours': ((1, 2, 4, 8), (10.0, 13.0, 17.5, 22.0))}


def test_quality_curve_has_the_numbers_and_their_ticks():
  axes = viz.quality_by_tokens(_SERIES).axes[0]
  x, y = axes.lines[0].get_data()
  assert tuple(x) == (1, 2, 4, 8) and tuple(y) == (10.0, 13.0, 17.5, 22.0)
  assert [t.get_text() for t in axes.get_xticklabels()] == ['1', '2', '4', '8']
  assert axes.get_legend() is None  # One series needs no legend.


def test_two_series_have_a_legend():
  axes = viz.rate_distortion(_SERIES | {'k-means': ((8, 64), (9, 15))}).axes[0]
  names = [t.get_text() for t in axes.get_legend().get_texts()]
  assert names == ['ours', 'k-means']
  assert 'bits' in axes.get_xlabel() and 'dB' in axes.get_ylabel()


def test_long_series_have_no_markers():
  axes = viz.loss_curve({'train': (range(100), np.ones(100))}).axes[0]
  assert axes.lines[0].get_marker() in (None, 'None')


def test_themes_are_transparent_and_differ():
  light, dark = viz.both_themes(viz.loss_curve, _SERIES)
  ink = []
  for data in (light, dark):
    with Image.open(io.BytesIO(data)) as image:
      pixels = np.asarray(image.convert('RGBA'))
    assert pixels[0, 0, 3] == 0
    ink.append(pixels[pixels[..., 3] == 255][:, :3].mean())
  assert ink[0] < ink[1]


def test_too_many_series_are_refused():
  with pytest.raises(ValueError, match='7 series'):
    viz.loss_curve({str(i): ((0,), (0,)) for i in range(7)})


def test_matplotlib_is_imported_only_when_drawing():
  code = 'import sys, tokpress_jax.viz; assert "matplotlib" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True)


def test_panels_share_colours_and_a_legend():
  series = {'1 x 1': ((0, 1), (3.0, 4.0)), '2 x 2': ((0, 1), (5.0, 6.0))}
  figure = viz.panels(
    [('Loss', 'mse', {'': ((0, 1), (2.0, 1.0))}), ('Quality', 'dB', series)],
    x_label='step',
    key='scale',
  )
  loss, quality = figure.axes
  assert len(loss.lines) == 1 and tuple(loss.lines[0].get_ydata()) == (2.0, 1.0)
  assert len({line.get_color() for line in quality.lines}) == 2
  (legend,) = figure.legends
  assert [t.get_text() for t in legend.get_texts()] == ['1 x 1', '2 x 2']
  assert legend.get_title().get_text() == 'scale'
  with Image.open(io.BytesIO(viz.figure_png(figure))) as image:
    assert image.convert('RGBA').getpixel((0, 0)) == (255, 255, 255, 255)
