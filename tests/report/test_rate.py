"""Rate and distortion: sizes are those of files, pictures those of decoding."""

import io

import numpy as np
import pytest
import tiny_models
from PIL import Image

from tokpress_jax.errors import UserError
from tokpress_jax.report import rate


@pytest.fixture(scope='module')
def found():
  rng = np.random.default_rng(0)
  smooth = np.linspace(0, 255, 24 * 40).reshape(24, 40, 1)
  noisy = np.clip(smooth + rng.normal(0, 30, smooth.shape), 0, 255)
  images = {'smooth': smooth.astype(np.uint8), 'noisy': noisy.astype(np.uint8)}
  return rate.measure_rates(tiny_models.one_d(), images, lengths=(1, 3))


def test_every_coder_has_its_points(found):
  assert found.coders == [
    'tokens, packed',
    'tokens, adaptive',
    'JPEG',
    'JPEG without tables',
    'WebP',
    'WebP of 1/4 the side',
  ]
  tokens = found.of('tokens, packed')
  assert [p.setting for p in tokens] == [1, 3]
  # 3 x 5 tiles of 4 bits a token; 4 bytes of index, 6 of checksums, 12 fields
  # and the length of a byte or two each, and the name.
  for point in tokens:
    names = (len('smooth') + len('noisy')) / 2
    codes = np.ceil((33 + 15 * point.setting * 4) / 8)
    expected = 8 * (4 + 2 + 12 + 1 + names + codes) / (24 * 40)
    assert abs(point.bits - expected) < 8 * 1 / (24 * 40)
  for name in ('JPEG', 'WebP'):
    psnr = [p.psnr for p in found.of(name)]
    assert psnr[-1] > psnr[0] + 3
  plain, bare = found.of('JPEG'), found.of('JPEG without tables')
  for a, b in zip(plain, bare, strict=True):
    assert a.psnr == b.psnr and a.bits > b.bits + 8 * 100 / (24 * 40)
  small, whole = found.of('WebP of 1/4 the side'), found.of('WebP')
  assert small[-1].bits < whole[-1].bits and small[-1].psnr < whole[-1].psnr


def test_numbers_are_those_of_pillow(found):
  point = found.of('JPEG')[-1]
  image = Image.fromarray(
    np.linspace(0, 255, 24 * 40).reshape(24, 40).astype(np.uint8)
  )
  buffer = io.BytesIO()
  image.save(buffer, 'JPEG', quality=point.setting, optimize=True)
  apart = np.asarray(Image.open(buffer), float) - np.asarray(image)
  psnr = 10 * np.log10(255**2 / np.mean(apart**2))
  # The mean over a smooth image and a noisy one is below the smooth one's.
  assert psnr > point.psnr > 20


def test_bits_at_a_quality_lie_between_points(found):
  points = found.of('JPEG')
  assert found.bits_at('JPEG', points[-1].psnr) == points[-1].bits
  assert found.bits_at('JPEG', points[-1].psnr + 1) is None
  middle = found.bits_at('JPEG', (points[-1].psnr + points[-2].psnr) / 2)
  assert points[-2].bits < middle < points[-1].bits


def test_tables_and_figure_are_made(found):
  numbers, at = rate.tables(found)
  assert len(numbers.rows) == len(found.points) and len(at.rows) == 2
  figure = rate.rate_figure(found)
  assert len(figure.axes) == 2
  assert all(len(axes.lines) == 6 for axes in figure.axes)


def test_continuous_tokens_are_refused():
  from tokpress_jax import quantize, tokenizers, types

  config = tokenizers.TiTokConfig(
    image_size=8,
    channels=1,
    patch=4,
    tokens=3,
    encoder=tokenizers.TowerConfig(width=8, depth=1, heads=2),
    decoder=tokenizers.TowerConfig(width=8, depth=1, heads=2),
    quantizer=quantize.GaussianConfig(dim=4),
  )
  spec = types.Spec(name='', family='tokenizer', config=config)
  model = types.Loaded(config.build(), {}, spec)
  with pytest.raises(UserError, match='no codes'):
    rate.measure_rates(model, {}, lengths=(3,))
