"""Compressors against their official code.

`tests/golden/make_compressors.py` says what made the golden file.
"""

import compressor_weights as weights
import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.pruners import compressors
from tokpress_jax.types import Tokens

TOLERANCE = 1e-5


def golden(name):
  with np.load(case.GOLDEN) as file:
    return file[name]


def check(got, name):
  want = golden(name)
  assert got.shape == want.shape
  assert np.abs(np.asarray(got) - want).max() < TOLERANCE * want.std()


def run(kind, shapes, module, *args, **kwargs):
  """Gives a module's output with redrawn official weights of some shapes."""
  variables = weights.variables(kind, shapes, module.config)
  apply = lambda variables, *args: module.apply(variables, *args, **kwargs)
  return jax.jit(apply)(variables, *args)


@pytest.mark.parametrize('scale', case.M3_SCALES)
def test_m3_as_function_and_as_pruner(scale):
  side = case.M3_SIDE
  x = jnp.asarray(case.draw('m3', 2, side**2, 5))
  (got,) = compressors.nested_pool(x, grid=(side, side), scales=(scale,))
  check(got, f'm3/{scale}')
  at = np.stack(np.divmod(np.arange(side**2), side), axis=-1)
  tokens = Tokens.create(x, positions=jnp.asarray(np.stack([at, at])))
  pooled, _ = jax.jit(compressors.M3(budget=scale))(tokens)
  check(pooled.features, f'm3/{scale}')
  assert pooled.valid.all()


@pytest.mark.parametrize('count', case.MQT_COUNTS)
def test_mqt(count):
  c = case.MQT
  module = compressors.MQT(
    side=c['side'],
    width=c['width'],
    heads=c['heads'],
    out=c['out'],
    grid=(c['image'], c['image']),
  )
  x = case.draw('mqt', 2, c['image'] ** 2, c['width'])
  got = run('mqt', case.mqt_shapes(), module, x, count=count)
  check(got, f'mqt/{count}')


@pytest.mark.parametrize('stride', case.PACKER_STRIDES)
def test_token_packer(stride):
  c = case.PACKER
  module = compressors.TokenPacker(
    stride=stride,
    grid=(c['side'], c['side']),
    width=c['width'],
    joined=c['joined'],
    heads=c['heads'],
    out=c['out'],
  )
  x, levels = (
    case.draw(f'packer{n}', 2, c['side'] ** 2, n)
    for n in (c['width'], c['joined'])
  )
  got = run('token-packer', case.packer_shapes(), module, x, levels)
  check(got, f'packer/{stride}')


@pytest.mark.parametrize('stride', case.QUECC_STRIDES)
def test_quecc(stride):
  c = case.QUECC
  module = compressors.QueCC(
    stride=stride,
    grid=(c['side'], c['side']),
    width=c['width'],
    joined=c['joined'],
    text=c['text'],
    heads=c['heads'],
  )
  x, levels = (
    case.draw(f'quecc{n}', 2, c['side'] ** 2, n)
    for n in (c['width'], c['joined'])
  )
  text = case.draw('quecc_text', 2, 1, c['text'])[:, 0]
  got = run('quecc', case.quecc_shapes(stride), module, x, levels, text)
  check(got, f'quecc/{stride}')


def test_slime_resampler():
  c = case.SLIME
  module = compressors.SliMEResampler(
    side=c['side'],
    width=c['width'],
    heads=c['heads'],
    grid=(c['crop'], c['crop']),
  )
  x = case.draw('slime', 2, c['crop'] ** 2, c['width'])
  check(run('slime', case.slime_shapes(), module, x), 'slime/resampled')


@pytest.mark.parametrize('side', case.FLEX_SIDES)
def test_token_flex(side):
  c = case.FLEX
  module = compressors.TokenFLEX(
    grid=(c['side'], c['side']), width=c['width'], out=c['out']
  )
  x = case.draw('flex', 2, c['side'] ** 2, c['width'])
  got = run('token-flex', case.flex_shapes(), module, x, side=side)
  check(got, f'flex/{side}')


def hicom_call(which, shapes, module, width, kind, scale):
  x, joint, text, words = (a[None] for a in case.hicom_inputs(width))
  given = {}
  if kind == 'direct' and width == case.HICOM['width']:
    given['joint'] = joint
  if scale is not None:
    given['logit_scale'] = jnp.float32(scale)
  text = words if kind == 'fine' else text
  inputs = (x,) if kind == 'off' else (x, text)
  return run(f'hicom-{which}', shapes, module, *inputs, **given)[0]


@pytest.mark.parametrize('name', case.HICOM_LOCAL)
def test_hicom_local(name):
  c = case.HICOM
  kind, adapt, scale = case.HICOM_LOCAL[name]
  module = compressors.HIComLocal(
    grid=c['grid'],
    sizes=(c['sizes'][0], c['sizes'][1], c['sizes'][1]),
    width=c['width'],
    text=c['width'],
    out=c['out'],
    guide=kind,
    adapt=adapt,
    heads=c['width'] // 4,
  )
  shapes = case.local_shapes(kind, adapt)
  got = hicom_call('local', shapes, module, c['width'], kind, scale)
  check(got, f'hicom/local/{name}')


@pytest.mark.parametrize('name', case.HICOM_GLOBAL)
def test_hicom_global(name):
  c = case.HICOM
  kind, adapt, scale = case.HICOM_GLOBAL[name]
  module = compressors.HIComGlobal(
    queries=case.HICOM_QUERIES,
    grid=c['grid'],
    width=c['wide'],
    text=c['width'],
    out=c['out'],
    guide=kind,
    adapt=adapt,
    heads=c['wide'] // 4,
  )
  shapes = case.global_shapes(kind, adapt)
  got = hicom_call('global', shapes, module, c['wide'], kind, scale)
  check(got, f'hicom/global/{name}')
  # The published code's direct guidance: every query is the text.
  assert (np.ptp(got, axis=0).max() < 1e-5) == (kind == 'direct')
