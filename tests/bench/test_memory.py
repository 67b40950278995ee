"""Peaks of functions whose memory is known."""

import sys

import pytest

from tokpress_jax.bench import memory
from tokpress_jax.errors import UserError

MEGABYTE = 2**20


def holding(*, held, first, later):
  """Holds `held` megabytes; its calls take more for a moment."""
  keep = bytearray(held * MEGABYTE)
  sizes = [first, later]

  def call():
    bytearray(sizes.pop(0) * MEGABYTE)
    assert len(keep) == held * MEGABYTE

  return call


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_each_call_has_its_own_peak():
  found = memory.peak(f'{__name__}:holding', held=50, first=200, later=100)
  extra = {key: found[key] - found['weights'] for key in found}
  assert found['weights'] > 50 * MEGABYTE
  assert extra['first_peak'] == pytest.approx(200 * MEGABYTE, rel=0.1)
  assert extra['peak'] == pytest.approx(100 * MEGABYTE, rel=0.1)


def test_a_failing_process_shows_its_last_words():
  with pytest.raises(UserError, match='unexpected keyword'):
    memory.peak(f'{__name__}:holding', weight=1)
