"""Timed comparisons: `tokpress bench NAME --json FILE`."""

from tokpress_jax.bench.flops import count_flops
from tokpress_jax.bench.harness import (
  describe,
  list_benches,
  machine,
  run,
  table,
  time_calls,
  versus,
)

__all__ = [
  'count_flops',
  'describe',
  'list_benches',
  'machine',
  'run',
  'table',
  'time_calls',
  'versus',
]
