"""The bench of token files, on a tiny tokenizer."""

import pytest
import tiny_models

from tokpress_jax import bench
from tokpress_jax.errors import UserError
from tokpress_jax.io import export


def test_each_coding_is_timed_both_ways(tmp_path):
  model = tiny_models.one_d()
  export.export(model.module, model.variables, tmp_path / 'm')
  report = bench.run(
    'tokens', model=str(tmp_path / 'm'), images=20, batch=8, repeats=1
  )
  rows = report['rows']
  assert [r['name'] for r in rows] == [
    f'{way}, {coding}'
    for coding in ('plain', 'packed', 'adaptive')
    for way in ('encode', 'decode')
  ]
  for row in rows:
    assert row['ratio'] == row['peer_seconds'] / row['seconds'] > 0
  # 3 tokens of 4 bits: 3 bytes plain, 2 packed, beside the same fields.
  size = {r['name']: r['bytes_per_image'] for r in rows}
  assert 0.5 < size['encode, plain'] - size['encode, packed'] < 1.5


def test_models_without_codes_are_refused(tmp_path):
  model = tiny_models.vit()
  export.export(model.module, model.variables, tmp_path / 'm')
  with pytest.raises(UserError, match='no tokenizer with codes'):
    bench.run('tokens', model=str(tmp_path / 'm'))
