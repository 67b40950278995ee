"""The notebook of pruners: in step with its source, and it runs offline."""

import re

import jax
import jax.numpy as jnp
import notebook_runs
import numpy as np
import pytest

from tokpress_jax.io import export
from tokpress_jax.models import ViTConfig


def test_notebook_is_made_from_the_source():
  notebook_runs.check_in_step('pruners')


@pytest.mark.slow
def test_notebook_runs(monkeypatch, tmp_path):
  pytest.importorskip('skimage')
  config = ViTConfig(
    image_size=32, patch=4, width=16, heads=2, depth=4, classes=5
  )
  model = notebook_runs.redrawn('tiny', config, jnp.zeros((1, 32, 32, 3)))
  # The class token shall depend on the patches.
  params = model.variables['params']
  params = params | {'stack': jax.tree.map(lambda x: 3 * x, params['stack'])}
  export.export(model.module, {'params': params}, tmp_path / 'tiny')
  monkeypatch.setenv('TOKPRESS_MODEL', str(tmp_path / 'tiny'))
  text, pictures = notebook_runs.execute('pruners', monkeypatch, tmp_path)
  assert '64 patches of 4 pixels, 4 layers' in text
  assert '64 patches, 9 kept, 64 painted' in text
  rows = re.findall(r'^(\S.*?) +(\d+) +(\d+)% +\d+ ms +(\S+) +\d$', text, re.M)
  table = {name: tuple(map(float, row)) for name, *row in rows}
  assert table['all tokens'] == (65, 100, 1)
  # 4 layers, r each, the class token beside them; 25 has no 13 pairs.
  merged = [table[f'ToMe, r = {r}'][0] for r in (5, 8, 13)]
  assert merged == [65 - 4 * 5, 65 - 4 * 8, 65 - 3 * 13 - 12]
  assert table['TopAttention'][:2] == table['random'][:2]
  assert table['TopAttention'][0] == 1 + 22  # 64, 45, 32, 22
  _, *pruned = table.values()
  assert len(pruned) == 6 and all(flops < 100 for _, flops, _ in pruned)
  assert len({cosine for *_, cosine in pruned}) > 3
  rates, layers, kept, chosen, _, mine = pictures
  assert rates.shape[1] == 5 * 132 - 4 == layers.shape[1]
  assert kept.shape[1] == 4 * 132 - 4 and mine.shape[1] == 2 * 132 - 4
  counts = re.findall(r'^(\w+) +keeps (\d+) of 64 patches$', text, re.M)
  names = 'DivPrune', 'SCOPE', 'HiPrune', 'VisPruner', 'VisionZip'
  assert counts == [(name, '16') for name in names]
  assert chosen.shape[1] == 6 * 132 - 4
  for sheet in pictures:
    cells = [
      sheet[21 : 21 + 128, i * 132 : i * 132 + 128, :3].astype(float)
      for i in range(sheet.shape[1] // 132 + 1)
    ]
    # Every picture is another one of the photograph.
    for i, cell in enumerate(cells):
      assert cell.std() > 20
      assert all(np.abs(cell - other).mean() > 1 for other in cells[:i])
