"""The bench of pruners, on a tiny ViT."""

import numpy as np
import pytest

from tokpress_jax import bench, models
from tokpress_jax.bench import official_tome, pruners
from tokpress_jax.errors import UserError

CONFIG = models.ViTConfig(
  image_size=8, patch=2, width=16, depth=2, heads=2, classes=5
)


def test_speed_up_is_beside_the_operations():
  rows = pruners.compare(
    'it', CONFIG, r=3, batch=2, methods=('tome', 'diffrate'), repeats=2
  )
  whole, tome, diffrate = rows
  assert [row['name'] for row in rows] == ['it', 'it/tome', 'it/diffrate']
  assert whole['equal_tokens'] == 17 and tome['equal_tokens'] == 15.5
  # Layers of 17 and 14 tokens, whose MLPs see 14 and 11.
  layer = lambda n, m: 4 * n * 16**2 + 2 * n**2 * 16 + 2 * m * 16 * 64
  predicted = 2 * layer(17, 17) / (layer(17, 14) + layer(14, 11))
  np.testing.assert_allclose(tome['predicted'], predicted)
  for row in (tome, diffrate):
    np.testing.assert_allclose(
      row['speed_up'], whole['seconds'] / row['seconds']
    )
    np.testing.assert_allclose(
      row['realised'], row['speed_up'] / row['predicted']
    )
    assert row['pruner_seconds'] > 0
  assert 'peer' not in whole


def test_every_method_takes_the_same_number():
  names = bench.describe('pruners')
  for name in ('tome', 'pitome', 'token_transforming', 'random', 'top_norm'):
    assert name in names
    plan = pruners.plan_of(name, r=3, config=CONFIG)
    sizes = models.counts.token_counts(CONFIG, plan)
    assert sizes == ((17, 14), (14, 11)), name


def test_options_are_checked():
  with pytest.raises(UserError, match="vit-h14, got 'vit-x'"):
    bench.run('pruners', model='vit-x')
  with pytest.raises(UserError, match=r'Ratio\(ratio=1 / k\)'):
    bench.run('pruners', methods='tome_kth')
  with pytest.raises(UserError, match='tome_randon'):
    bench.run('pruners', methods='tome_randon')


@pytest.mark.parity
def test_a_peer_must_exist(tmp_path):
  pytest.importorskip('torch')
  with pytest.raises(UserError, match='no checkout of facebookresearch/ToMe'):
    official_tome.Official(str(tmp_path), CONFIG, {})
