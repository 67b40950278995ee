"""Whole pruned ViTs equal what the official codes' patches of timm give."""

import dataclasses
import functools

import jax
import numpy as np
import pruned_vit_case as case
import pytest

from tokpress_jax import models, pruners
from tokpress_jax.io import convert, safetensors
from tokpress_jax.types import OneHot

DEPTH, TOKENS = case.SIZE['depth'], 26


def tome(name):
  r = case.TOME[name]
  r, inflect = r if isinstance(r, tuple) else (r, 0.0)
  return pruners.tome_plan(r, depth=DEPTH, inflect=inflect)


def by_number(plan, removed):
  """A plan with the same pruners, which remove a number of tokens each."""
  budget = pruners.Remove(tokens=removed)
  return tuple((s, dataclasses.replace(p, budget=budget)) for s, p in plan)


# name: (plan, whether merged keys weigh by their mass, host)
RUNS = {
  **{f'tome_{name}': (tome(name), True, 'vit') for name in case.TOME},
  'tome_plain': (tome('constant'), False, 'vit'),
  'tome_distilled': (tome('constant'), True, 'deit'),
  **{
    f'diffrate_{name}': (
      pruners.diffrate_plan(*kept, tokens=TOKENS),
      True,
      'vit',
    )
    for name, kept in case.DIFFRATE.items()
  },
  **{
    f'pitome_{name}': (pruners.pitome_plan(r, depth=DEPTH), False, 'vit')
    for name, r in case.PITOME.items()
  },
  'pitome_number': (
    by_number(pruners.pitome_plan(0.5, depth=DEPTH), case.PITOME_REMOVED),
    False,
    'vit',
  ),
}


@functools.cache
def host(name, folder):
  """The official weights, in our host."""
  file = folder / f'{name}.safetensors'
  safetensors.save(file, case.released(name))
  model = convert.convert(file, 'vit-timm')
  # The images are as the network takes them.
  config = dataclasses.replace(model.spec.config, mean=(0.5,), std=(0.5,))
  return config, model.variables


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('weights')


def groups(reductions):
  """For each original token the first one of its group, -1 if dropped."""
  whole = functools.reduce(pruners.compose, reductions)
  assert isinstance(whole.assign, OneHot)
  target = np.asarray(whole.assign.target)
  found = np.full_like(target, -1)
  for row, out in zip(target, found, strict=True):
    for slot in set(row[row >= 0]):
      out[row == slot] = np.flatnonzero(row == slot)[0]
  return found


@pytest.mark.parametrize('name', RUNS)
def test_equals_the_official_model(name, folder):
  plan, proportional, kind = RUNS[name]
  config, variables = host(kind, folder)
  module = config.build()
  run = jax.jit(
    lambda variables, images: module.apply(
      variables, images, plan=plan, proportional=proportional
    )
  )
  out = run(variables, case.images())
  golden = {
    k.removeprefix(f'{name}_'): v
    for k, v in case.golden().items()
    if k.startswith(f'{name}_')
  }
  error = np.abs(out.logits - golden['logits']).max() / golden['logits'].std()
  assert error < case.TOLERANCE, error
  np.testing.assert_array_equal(groups(out.reductions), golden['source'])
  mass = np.sort(out.tokens.mass, axis=1)
  np.testing.assert_allclose(mass, golden['mass'], rtol=1e-5)
  counts = models.token_counts(config, plan)
  assert [n for _, n in counts] == golden['counts'].tolist()
  if 'flops' in golden:  # The patches and the classifier too.
    width, classes = config.width, config.classes
    ends = TOKENS * width * config.patch**2 * 3 + width * classes
    stack = pruners.model_flops(counts, width=width, hidden=4 * width)
    assert stack + ends == golden['flops']


def test_masses_matter():
  """The official files tell proportional attention from plain."""
  golden = case.golden()
  moved = golden['tome_constant_logits'] - golden['tome_plain_logits']
  assert np.abs(moved).max() > 100 * case.TOLERANCE
