"""Pictures a person looks at: sheets of images, curves, one HTML page."""

from tokpress_jax.viz.curves import (
  INK,
  LINES,
  Theme,
  blank,
  both_themes,
  curve,
  dress,
  figure_png,
  loss_curve,
  panels,
  quality_by_tokens,
  rate_distortion,
)
from tokpress_jax.viz.page import Picture, Section, Table, page_html, write_page
from tokpress_jax.viz.sheets import (
  edits,
  png,
  reconstructions,
  samples_by_class,
  scale_by_scale,
  sheet,
)

__all__ = [
  'INK',
  'LINES',
  'Picture',
  'Section',
  'Table',
  'Theme',
  'blank',
  'both_themes',
  'curve',
  'dress',
  'edits',
  'figure_png',
  'loss_curve',
  'page_html',
  'panels',
  'png',
  'quality_by_tokens',
  'rate_distortion',
  'reconstructions',
  'samples_by_class',
  'scale_by_scale',
  'sheet',
  'write_page',
]
