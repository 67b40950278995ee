"""The quickstart: in step with its source, and it runs, tiny and offline."""

import notebook_runs
import pytest


def test_notebook_is_made_from_the_source():
  notebook_runs.check_in_step('quickstart')


@pytest.mark.slow
def test_notebook_runs(monkeypatch, tmp_path):
  pytest.importorskip('sklearn')
  monkeypatch.setenv('TOKPRESS_STEPS', '3')
  monkeypatch.setenv('TOKPRESS_MODEL', '')
  monkeypatch.setenv('TOKPRESS_WORKDIR', str(tmp_path / 'run'))
  monkeypatch.setenv('TOKPRESS_DATA_DIR', str(tmp_path))
  text, pictures = notebook_runs.execute('quickstart', monkeypatch, tmp_path)
  assert 'codes (297, 16, 1)' in text and ' dB' in text
  assert len(pictures) >= 2  # The strip and the curve, at least.
  strip = pictures[0]
  assert strip.shape[1] > 10 * 64 and strip.any()
