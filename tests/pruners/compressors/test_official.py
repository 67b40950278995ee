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


def run(module, params, *args, **kwargs):
  apply = lambda params, *args: module.apply(
    {'params': params}, *args, **kwargs
  )
  return jax.jit(apply)(params, *args)


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
  check(run(module, weights.mqt(), x, count=count), f'mqt/{count}')


@pytest.mark.parametrize('stride', case.PACKER_STRIDES)
def test_token_packer(stride):
  c = case.PACKER
  module = compressors.TokenPacker(
    stride=stride,
    grid=(c['side'], c['side']),
    width=c['width'],
    heads=c['heads'],
    out=c['out'],
  )
  x, levels = (
    case.draw(f'packer{n}', 2, c['side'] ** 2, n)
    for n in (c['width'], c['joined'])
  )
  check(run(module, weights.packer(), x, levels), f'packer/{stride}')


@pytest.mark.parametrize('stride', case.QUECC_STRIDES)
def test_quecc(stride):
  c = case.QUECC
  module = compressors.QueCC(
    stride=stride,
    grid=(c['side'], c['side']),
    width=c['width'],
    heads=c['heads'],
  )
  x, levels = (
    case.draw(f'quecc{n}', 2, c['side'] ** 2, n)
    for n in (c['width'], c['joined'])
  )
  text = case.draw('quecc_text', 2, 1, c['text'])[:, 0]
  check(run(module, weights.quecc(stride), x, levels, text), f'quecc/{stride}')


def test_slime_resampler():
  c = case.SLIME
  module = compressors.SliMEResampler(
    side=c['side'],
    width=c['width'],
    heads=c['heads'],
    grid=(c['crop'], c['crop']),
  )
  x = case.draw('slime', 2, c['crop'] ** 2, c['width'])
  check(run(module, weights.slime(), x), 'slime/resampled')


@pytest.mark.parametrize('side', case.FLEX_SIDES)
def test_token_flex(side):
  c = case.FLEX
  module = compressors.TokenFLEX(grid=(c['side'], c['side']), out=c['out'])
  x = case.draw('flex', 2, c['side'] ** 2, c['width'])
  check(run(module, weights.flex(), x, side=side), f'flex/{side}')


def hicom_call(module, params, width, kind, scale):
  x, joint, text, words = (a[None] for a in case.hicom_inputs(width))
  given = {}
  if kind == 'direct' and width == case.HICOM['width']:
    given['joint'] = joint
  if scale is not None:
    given['logit_scale'] = jnp.float32(scale)
  text = {'fine': words, 'off': None}.get(kind, text)
  texts = () if text is None else (text,)
  return run(module, params, x, *texts, **given)[0]


@pytest.mark.parametrize('name', case.HICOM_LOCAL)
def test_hicom_local(name):
  c = case.HICOM
  kind, adapt, scale = case.HICOM_LOCAL[name]
  module = compressors.HIComLocal(
    grid=c['grid'],
    sizes=(c['sizes'][0], c['sizes'][1], c['sizes'][1]),
    width=c['width'],
    out=c['out'],
    guide=kind,
    adapt=adapt,
    heads=c['width'] // 4,
  )
  params = weights.hicom_local(kind, adapt)
  got = hicom_call(module, params, c['width'], kind, scale)
  check(got, f'hicom/local/{name}')


@pytest.mark.parametrize('name', case.HICOM_GLOBAL)
def test_hicom_global(name):
  c = case.HICOM
  kind, adapt, scale = case.HICOM_GLOBAL[name]
  module = compressors.HIComGlobal(
    queries=case.HICOM_QUERIES,
    grid=c['grid'],
    width=c['wide'],
    out=c['out'],
    guide=kind,
    adapt=adapt,
    heads=c['wide'] // 4,
  )
  params = weights.hicom_global(kind, adapt)
  got = hicom_call(module, params, c['wide'], kind, scale)
  check(got, f'hicom/global/{name}')
  # The published code's direct guidance: every query is the text.
  assert (np.ptp(got, axis=0).max() < 1e-5) == (kind == 'direct')
