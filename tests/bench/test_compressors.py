"""The bench of pruners before a language model, on few small tokens."""

import numpy as np
import pytest

from tokpress_jax import bench
from tokpress_jax.bench import compressors
from tokpress_jax.errors import UserError

# A text has the width of a language model.
METHODS = [name for name in compressors.METHODS if name != 'catp']


def test_cost_is_beside_a_prefill():
  rows = compressors.compare(
    METHODS, 40, (20, 8), width=16, dtype='float32', repeats=1
  )
  assert len(rows) == 2 * len(METHODS)
  assert rows[0]['name'] == 'divprune/20 of 40'
  for row in rows:
    np.testing.assert_allclose(row['share'], row['seconds'] / row['prefill'])
  # 84 and 72 tokens through 32 layers of 4,096 and three products of 11,008.
  work = lambda n: 4 * n * 4096**2 + 2 * n**2 * 4096 + 3 * n * 4096 * 11008
  ratio = rows[0]['prefill'] / rows[1]['prefill']
  np.testing.assert_allclose(ratio, work(84) / work(72))


def test_other_numbers_of_tokens_are_refused():
  with pytest.raises(UserError, match=r'among \[576, 2880\], got \[100\]'):
    bench.run('compressors', slots=100)
