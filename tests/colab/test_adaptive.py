"""The notebook of adaptive tokenizers: in step, and it runs offline."""

import itertools

import jax.numpy as jnp
import notebook_runs
import numpy as np
import pytest

from tokpress_jax import tokenizers
from tokpress_jax.io import export


def test_notebook_is_made_from_the_source():
  notebook_runs.check_in_step('adaptive_tokenizers')


@pytest.mark.slow
def test_notebook_runs(monkeypatch, tmp_path):
  pytest.importorskip('skimage')
  pytest.importorskip('matplotlib')
  config = tokenizers.OneDConfig(
    image_size=16,
    patch=8,
    tokens=8,
    width=16,
    heads=2,
    encoder_depth=1,
    decoder_depth=1,
  )
  images = jnp.zeros((1, 16, 16, 3))
  model = notebook_runs.redrawn('tiny', config, images)
  export.export(model.module, model.variables, tmp_path / 'tiny')
  monkeypatch.setenv('TOKPRESS_MODEL', str(tmp_path / 'tiny'))
  text, pictures = notebook_runs.execute(
    'adaptive_tokenizers', monkeypatch, tmp_path
  )
  assert '1 to 8 tokens, 16 pixels' in text
  assert '8 tokens: ' in text and 'tokens on average' in text
  assert 'decodes the same: True' in text
  assert '10 images in ' in text and 'capacity ' in text
  one, prefixes, curve, ten = pictures
  assert one.shape[1] >= 2 * 256 and prefixes.shape[1] >= 5 * 96
  assert curve.std() > 5 and ten.shape[1] >= 10 * 96
  # Another number of tokens, another picture.
  cells = [prefixes[-96:, i * 100 : i * 100 + 96] for i in range(4)]
  for a, b in itertools.pairwise(cells):
    assert np.abs(a.astype(float) - b).mean() > 0.5
