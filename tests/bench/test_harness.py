"""The harness: alternation, reports, errors; and the matmul benchmark."""

import json
import time

import pytest

from tokpress_jax import bench
from tokpress_jax.errors import UserError


def test_calls_alternate_and_the_median_is_reported():
  order = []

  def call(name, seconds):
    order.append(name)
    time.sleep(seconds)

  fast, slow = bench.time_calls(
    lambda: call('a', 0.0), lambda: call('b', 0.02), repeats=3, warmup=1
  )
  assert order == ['a', 'b'] * 4
  assert slow >= 0.02 > fast


def test_ratio_is_peer_over_ours():
  assert bench.versus('numpy', 2.0, 6.0)['ratio'] == 3.0


def test_matmul_report(tmp_path):
  path = tmp_path / 'new' / 'matmul.json'
  report = bench.run('matmul', path, sizes=(64,), repeats=2)
  assert json.loads(path.read_text())['rows'] == report['rows']
  assert {'device', 'versions', 'rows'} <= set(report)
  assert 'jax' in report['versions']
  float32, bfloat16 = report['rows']
  assert (float32['dtype'], bfloat16['dtype']) == ('float32', 'bfloat16')
  assert float32['flops'] == 4 * 2 * 64**3
  assert float32['flop_per_second'] == float32['flops'] / float32['seconds']
  assert float32['ratio'] == float32['peer_seconds'] / float32['seconds']
  assert 'ratio' not in bfloat16
  head, *rows = bench.table(report).splitlines()
  assert head.split()[:2] == ['name', 'dtype'] and len(rows) == 2


def test_one_size_and_one_dtype_may_stand_alone():
  (row,) = bench.run('matmul', sizes=16, dtypes='float32', repeats=1)['rows']
  assert (row['size'], row['dtype']) == (16, 'float32')


def test_unknown_names_are_refused():
  with pytest.raises(UserError, match='matmul'):
    bench.run('matmull')
  with pytest.raises(UserError, match='sizes'):
    bench.run('matmul', size=3)


def test_every_bench_is_described():
  assert all(bench.list_benches().values())
