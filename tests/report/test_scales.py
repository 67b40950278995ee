"""The codes of each scale, and the curves of their training."""

import json

import jax
import numpy as np
import pytest
import tiny_models

from tokpress_jax import metrics, report, types


def test_scales_of_a_tokenizer():
  module = tiny_models.MULTI_SCALE.build()
  images = np.random.default_rng(0).uniform(-1, 1, (10, 8, 8, 1))
  images = images.astype(np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), images[:1])
  loaded = types.Loaded(
    module, variables, types.Spec(name='', family='', config=module.config)
  )
  sets = {'training': images, 'test': images[:3]}
  both = report.measure_scales(loaded, sets, batch=4)  # 4, 4 and 2 images
  found = both['training']
  z = module.apply(variables, images, method='latents')
  codes = module.apply(variables, images, method='encode').codes
  chosen = np.asarray(codes)[..., 0]
  book = np.asarray(variables['params']['quantizer']['vq']['codebook'])
  # Two scales, no phi: the residual of the second is z less the first's code.
  coarse = np.asarray(z).mean((1, 2), keepdims=True)
  fine = np.asarray(z) - book[chosen[:, :1]][:, None]
  centres = metrics.fit_scales([coarse, fine], size=16)
  want = metrics.scale_codes(
    [coarse, fine], [chosen[:, :1], chosen[:, 1:]], centres
  )
  assert [row.grid for row in found] == [(1, 1), (2, 2)]
  assert [row.vectors for row in found] == [10, 40]
  few = metrics.scale_codes(
    [coarse[:3], fine[:3]], [chosen[:3, :1], chosen[:3, 1:]], centres
  )
  for a, b in zip(both['test'], few, strict=True):
    np.testing.assert_allclose(a.kmeans, b.kmeans, rtol=1e-3)
    np.testing.assert_allclose(a.perplexity, b.perplexity)
  for a, b in zip(found, want, strict=True):
    np.testing.assert_allclose(a.perplexity, b.perplexity)
    np.testing.assert_allclose(a.kmeans, b.kmeans, rtol=1e-3)
    np.testing.assert_allclose(a.energy, b.energy, rtol=1e-4)
  plain = tiny_models.one_d()
  assert report.measure_scales(plain, {'training': images}) == {}


def test_curves_of_a_run(tmp_path):
  pytest.importorskip('matplotlib')
  rows = [
    {
      'step': 1,
      'loss': 3.0,
      'mse': 2.0,
      'perplexity_1': 4,
      'perplexity_2': 8.0,
    },
    {'step': 2, 'loss': 2.0, 'mse': 1.0, 'perplexity_1': 5, 'note': 'x'},
    {'step': 2, 'eval/psnr_1': 10.0, 'eval/psnr_5': 20.0},
  ]
  lines = ''.join(json.dumps(row) + '\n' for row in rows)
  (tmp_path / 'metrics.jsonl').write_text(lines)
  curves = report.read_curves(tmp_path)
  assert curves['loss'] == ([1, 2], [3.0, 2.0])
  assert curves['eval/psnr_5'] == ([2], [20.0])
  assert 'note' not in curves
  figure = report.scale_curves(curves, tiny_models.MULTI_SCALE)
  assert [len(axes.lines) for axes in figure.axes] == [1, 2, 2]
  names = [t.get_text() for t in figure.legends[0].get_texts()]
  assert names == ['1 x 1', '2 x 2']
  assert report.scale_curves(curves, tiny_models.ONE_D) is None
