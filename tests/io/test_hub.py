"""Names become paths, or an error that says what to give."""

import sys
import types

import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io import hub


def test_a_path_that_exists(tmp_path):
  assert hub.resolve(tmp_path) == tmp_path


def test_a_path_that_does_not(tmp_path):
  (tmp_path / 'digits_one_d').mkdir()
  with pytest.raises(UserError, match="Did you mean 'digits_one_d'"):
    hub.resolve(tmp_path / 'digits_oned')
  with pytest.raises(UserError, match='Give a model directory'):
    hub.resolve('nothing-here')


def fake(monkeypatch, download):
  module = types.SimpleNamespace(snapshot_download=download)
  monkeypatch.setitem(sys.modules, 'huggingface_hub', module)


def test_a_repository(tmp_path, monkeypatch):
  asked = []

  def download(repository, *, revision, allow_patterns):
    asked.append((repository, revision))
    assert not any(p.endswith(('.pth', '.bin', '.py')) for p in allow_patterns)
    return str(tmp_path)

  fake(monkeypatch, download)
  assert hub.resolve('owner/name') == tmp_path
  assert hub.resolve('hf://owner/name', revision='v1') == tmp_path
  assert asked == [('owner/name', None), ('owner/name', 'v1')]


def test_a_repository_that_cannot_be_had(monkeypatch):
  def download(*args, **kwargs):
    raise OSError('404 Client Error\nlong story')

  fake(monkeypatch, download)
  with pytest.raises(UserError, match=r'gave no .owner/name.: 404') as error:
    hub.resolve('owner/name')
  assert 'long story' not in str(error.value)


def test_without_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  with pytest.raises(UserError, match=r"pip install 'tokpress_jax\[hub\]'"):
    hub.resolve('owner/name')
