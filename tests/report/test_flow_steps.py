"""Quality by the steps of a flow: what is measured, said and drawn."""

import json
import types as py_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import flow, report, tokenizers, types
from tokpress_jax.errors import UserError
from tokpress_jax.quantize import FSQConfig
from tokpress_jax.report import results as results_lib

TOWER = tokenizers.TowerConfig(width=8, depth=1, heads=2)
CONFIG = tokenizers.FlexTokConfig(
  image_size=8,
  patch=4,
  tokens=4,
  encoder=TOWER,
  decoder=TOWER,
  quantizer=FSQConfig(levels=(4, 3), form='lucidrains'),
  vae=None,
  steps=2,
  guidance=1.0,
)


def model():
  module = CONFIG.build()
  images = jnp.zeros((1, 8, 8, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), images)
  rng = np.random.default_rng(1)
  drawn = jax.tree.map(
    lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), shapes
  )
  spec = types.Spec(name='', family='tokenizer', config=CONFIG)
  return types.Loaded(module, drawn, spec)


def test_numbers_and_the_figure():
  loaded = model()
  assert report.draws_steps(loaded)
  rng = np.random.default_rng(0)
  test = rng.uniform(-1, 1, (3, 8, 8, 3)).astype(np.float32)
  images = py_types.SimpleNamespace(test=test)
  found = report.measure_flow_steps(loaded, images, (4, 1, 4), most=2)
  assert list(found) == [1, 4] and found[1].tokens == (1, 3, 4)
  codes = loaded.encode(test[:2]).codes
  for steps in (1, 4):
    for i, n in enumerate((1, 3, 4)):
      again = loaded.decode_codes(
        codes, length=n, sampler=flow.FlowSampler(steps=steps)
      )
      error = ((np.asarray(again) - test[:2]) / 2) ** 2
      want = np.mean(-10 * np.log10(error.mean((1, 2, 3))))
      np.testing.assert_allclose(found[steps].psnr[i], want, rtol=1e-4)
  assert found[1].psnr != found[4].psnr
  figure = report.flow_steps_figure(found)
  assert len(figure.axes[0].lines) == 3
  np.testing.assert_array_equal(figure.axes[0].lines[2].get_xdata(), [1, 4])
  page = report.Report(
    images=None,
    tokenizers={},
    generators={},
    steps={},
    pruning=None,
    kmeans={},
    judge_accuracy=None,
    curves={},
    flow_steps={'a': found},
  )
  json.dumps(results_lib.numbers_of(page))
  with pytest.raises(UserError, match=r'\[0\] are no numbers of steps'):
    report.measure_flow_steps(loaded, images, (0, 2))
