"""TiTok's benchmark on a tiny model, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from tokpress_jax import bench, quantize, tokenizers
from tokpress_jax.bench import official_titok, titok
from tokpress_jax.errors import UserError

TOWER = tokenizers.TowerConfig(width=16, depth=2, heads=2)
VQ = quantize.VQConfig(codebook_size=32, dim=4, distance='cosine')
CONFIG = tokenizers.TiTokConfig(
  image_size=8,
  patch=2,
  tokens=4,
  encoder=TOWER,
  decoder=TOWER,
  layout='legacy',
  quantizer=VQ,
  vqgan=tokenizers.MaskGITVQGANConfig(
    image_size=8,
    patch=2,
    width=32,
    multipliers=(1, 1),
    blocks=1,
    quantizer=dataclasses.replace(VQ, distance='l2'),
  ),
)


def test_parts_add_up():
  found = titok.compare('it', CONFIG, batch=2, repeats=2)
  rows = {row['name']: row for row in found}
  whole, parts = rows['it/decode'], [f'it/decode/{p}' for p in ('transformer',)]
  parts.append('it/pixels')
  assert set(rows) == {'it/encode', 'it/decode', *parts}
  for key in ('seconds', 'flops'):
    total = sum(rows[part][key] for part in parts)
    np.testing.assert_allclose(total, whole[key])
  # Matmuls of two layers over the class, 16 patches and 4 latents, and more.
  layers = 2 * 2 * 21 * 12 * 16 * 16 * 2
  assert layers < rows['it/encode']['flops'] < 2 * layers
  assert 'peer' not in whole


def test_options_are_checked(tmp_path):
  with pytest.raises(UserError, match="titok-s128, got 'titok-bl64-vq8k'"):
    bench.run('titok', model='titok-bl64-vq8k')
  with pytest.raises(UserError, match="got 'var-d16'"):
    bench.run('titok', model='var-d16')


@pytest.mark.parity
def test_a_peer_must_exist(tmp_path):
  pytest.importorskip('torch')
  with pytest.raises(UserError, match='no checkout of bytedance/1d-tokenizer'):
    official_titok.Official(str(tmp_path), CONFIG, {})
