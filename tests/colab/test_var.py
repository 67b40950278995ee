"""VAR's notebook: in step with its source, and it runs, tiny and offline."""

import dataclasses

import jax.numpy as jnp
import notebook_runs
import numpy as np
import pytest

from tokpress_jax import generators, quantize, tokenizers
from tokpress_jax.io import export

SCALES = (1, 2, 4)
TOKENIZER = tokenizers.VARTokenizerConfig(
  image_size=8,
  patch=2,
  width=8,
  multipliers=(1, 2),
  blocks=1,
  groups=4,
  quantizer=quantize.MultiScaleVQConfig(
    vq=quantize.VQConfig(codebook_size=1024, dim=8), scales=SCALES, phi=2
  ),
)
VAR = generators.ScaleWiseConfig(
  codebook_size=1024,
  scales=SCALES,
  latent_dim=8,
  width=16,
  depth=1,
  heads=2,
)
MVAR = dataclasses.replace(VAR, sees='own', kernels=(None, None, 3))


def test_notebook_is_made_from_the_source():
  notebook_runs.check_in_step('var')


@pytest.mark.slow
def test_notebook_runs(monkeypatch, tmp_path):
  pytest.importorskip('skimage')
  pytest.importorskip('matplotlib')
  tokenizer = notebook_runs.redrawn('vq', TOKENIZER, jnp.zeros((1, 8, 8, 3)))
  for variable, name, config in (
    ('TOKPRESS_MODEL', 'tiny-var', VAR),
    ('TOKPRESS_SECOND', 'tiny-mvar', MVAR),
  ):
    model = notebook_runs.redrawn(
      name, config, *config.example_inputs(), tokenizer=tokenizer
    )
    path = tmp_path / name
    export.export(
      model.module, model.variables, path, tokenizer=tokenizer, name=name
    )
    monkeypatch.setenv(variable, str(path))
  text, pictures = notebook_runs.execute('var', monkeypatch, tmp_path)
  assert '3 scales, 21 tokens, 8 pixels' in text
  assert 'codes (1, 21, 1)' in text and '  21 tokens' in text
  assert 'first call' in text and ' images/s' in text and 'tiny-mvar' in text
  samples, stages, prefixes, _, inside, outside, changed, pair = pictures
  check = lambda sheet, rows, columns, cell: check_cells(
    cells(sheet, rows, columns, cell)
  )
  check(samples, 4, 4, 128)
  check(stages, 4, 3, 96)
  check(prefixes, 1, 4, 96)
  check(pair, 2, 4, 128)
  for sheet in (inside, outside, changed):
    original, kept, *results = cells(sheet, 1, 5, 160)[0]
    check_cells([[original, *results]])
    grey = (kept == 127).all(axis=-1)
    np.testing.assert_array_equal(kept[~grey], original[~grey])
    # A box of two rows and two columns of the finest scale, 4 x 4.
    share = 4 / 16 if sheet is not outside else 12 / 16
    assert abs(grey.mean() - share) < 0.01
  assert (inside != changed).any()


def cells(sheet, rows, columns, cell):
  """The images of a sheet, from its lower right corner, without labels."""
  height, width = sheet.shape[:2]
  step = cell + 4
  top, left = height - rows * step + 4, width - columns * step + 4
  return [
    [
      sheet[top + r * step :, left + c * step :][:cell, :cell, :3]
      for c in range(columns)
    ]
    for r in range(rows)
  ]


def check_cells(found):
  """Asserts that no image is of one colour, and no two are alike."""
  flat = [image.astype(float) for row in found for image in row]
  for i, image in enumerate(flat):
    assert image.std() > 5
    assert all(np.abs(image - other).mean() > 1 for other in flat[:i])
