"""`tokpress bench compressors --model`: rows beside random, and the picture."""

import jax
import numpy as np
import pytest
from PIL import Image

from tokpress_jax import bench, models
from tokpress_jax.bench import choosing, compressors
from tokpress_jax.errors import UserError
from tokpress_jax.io import export

OPTIONS = {'dataset': 'digits', 'train_images': 96, 'test_images': 64}


@pytest.fixture(scope='module')
def tower(tmp_path_factory):
  """A tower of 16 patches, not trained."""
  config = models.ViTConfig(
    image_size=8, patch=2, channels=1, width=16, depth=2, heads=2, classes=0
  )
  module = config.build()
  pixels = np.zeros((1, 8, 8, 1), np.float32)
  variables = jax.jit(module.init)(jax.random.key(0), pixels)
  out = tmp_path_factory.mktemp('choosing') / 'tower'
  export.export(module, variables, out)
  return str(out)


def test_rows_stand_beside_random_ones_and_in_a_picture(tower, tmp_path):
  picture = tmp_path / 'new' / 'probe.png'
  report = bench.run(
    'compressors',
    model=tower,
    methods='divprune',
    shares=('1/2', 0.25),
    picture=str(picture),
    **OPTIONS,
  )
  rows = {row['name']: row for row in report['rows']}
  # Random pruning joined for the picture.
  assert list(rows) == [
    'all/16',
    *('divprune/8', 'divprune/4', 'random/8', 'random/4'),
    *('smaller image/4',),
  ]
  for name, row in rows.items():
    count = name.split('/')[1]
    if count == '16':
      assert 'probe_over_random' not in row
      continue
    beside = row['probe'] - rows[f'random/{count}']['probe']
    np.testing.assert_allclose(row['probe_over_random'], beside, atol=1e-9)
  # Digits are told apart, and a draw moves it: means of five are no 64ths.
  assert rows['all/16']['probe'] > 0.3
  assert rows['random/4']['probe'] * 64 % 1 > 1e-6
  with Image.open(picture) as drawn:
    assert drawn.size[0] > drawn.size[1] > 100


@pytest.mark.parametrize(
  ('options', 'match'),
  [
    ({'dataset': None}, 'name a data set'),
    ({'shares': 'half'}, 'such as 0.25 or 2/9; got half'),
    ({'shares': 1.5}, 'got 1.5'),
    ({'picture': 'probe.jpg'}, 'a .png file, got probe.jpg'),
    ({'methods': ('catp',)}, 'catp read a text, and there is none'),
    ({'methods': ('divprun',)}, "is none. Did you mean 'divprune'"),
    ({'picture': '/proc/x/a.png'}, '--picture /proc/x cannot be made'),
    ({'methods': ('mqt',)}, r'mqt is none\. Known names'),
  ],
)
def test_bad_options(tower, options, match):
  given = {'methods': ('divprune',), **OPTIONS, **options}
  with pytest.raises(UserError, match=match):
    choosing.left_of(
      tower, given.pop('methods'), everything=compressors.METHODS, **given
    )
