"""Samples by the number of steps: what is measured, said and drawn."""

import dataclasses
import json

import numpy as np
import pytest

from tokpress_jax import generators, report, types
from tokpress_jax.errors import UserError
from tokpress_jax.report import results as results_lib
from tokpress_jax.report import steps as steps_lib

CONFIG = generators.MaskGITConfig(
  tokens=6, width=8, depth=1, heads=2, codebook_size=5, num_classes=3
)


def result(agreement):
  rest = {
    field.name: 0.5
    for field in dataclasses.fields(report.SampleResult)
    if field.type == 'float'
  }
  images = np.zeros((3, 2, 2, 1))
  return report.SampleResult(
    **{**rest, 'class_agreement': agreement},
    samples=images,
    labels=np.arange(3),
    stages=(images,),
    stage_tokens=(6,),
  )


def test_each_number_is_sampled_with(monkeypatch):
  seen = []

  def measure(model, images, judge, *, sampler, samples):
    del model, images, judge
    seen.append((sampler.steps, sampler.temperature, samples))
    return result(sampler.steps / 10)

  monkeypatch.setattr(steps_lib, 'measure_generator', measure)
  spec = types.Spec(name='', family='generator', config=CONFIG)
  model = types.Loaded(CONFIG.build(), {}, spec)
  assert report.takes_steps(model)
  sampler = generators.Sampler(steps=3, temperature=0.7)
  options = {'sampler': sampler, 'samples': 9}
  found = report.measure_steps(model, None, None, (4, 1, 4), **options)
  assert seen == [(1, 0.7, 9), (4, 0.7, 9)]
  assert [(n, r.class_agreement) for n, r in found.items()] == [
    (1, 0.1),
    (4, 0.4),
  ]
  with pytest.raises(UserError, match=r'\[0, 7\] are no numbers.*in 1 to 6'):
    report.measure_steps(model, None, None, (0, 2, 7))
  other = generators.NextTokenConfig(tokens=6, width=8, depth=1, heads=2)
  assert not report.takes_steps(
    types.Loaded(other.build(), {}, dataclasses.replace(spec, config=other))
  )


def test_numbers_and_the_figure():
  found = {1: result(0.25), 8: result(0.75)}
  page = report.Report(
    images=None,
    tokenizers={},
    generators={'a': result(0.5), 'b': result(0.5)},
    steps={'b': found},
    pruning=None,
    kmeans={},
    judge_accuracy=0.9,
    curves={},
  )
  numbers = json.loads(json.dumps(results_lib.numbers_of(page)))
  assert 'steps' not in numbers
  assert numbers['steps_b']['8']['sample_class_agreement'] == 0.75
  figure = report.steps_figure(found)
  (line,) = figure.axes[2].lines
  np.testing.assert_array_equal(line.get_xdata(), [1, 8])
  np.testing.assert_array_equal(line.get_ydata(), [0.25, 0.75])
  assert [t.get_text() for t in figure.axes[2].get_xticklabels()] == ['1', '8']
