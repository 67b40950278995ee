"""The table of compressors is what their runs evaluated last."""

import json

import pytest

from tokpress_jax import config as config_lib
from tokpress_jax.cli import report as cli
from tokpress_jax.config import Config
from tokpress_jax.errors import UserError
from tokpress_jax.report import compressing
from tokpress_jax.train.tasks import ClassifierTask, CompressorTask


def a_run(path, task, evaluated):
  path.mkdir()
  config = Config(name=path.name, task=task)
  (path / 'config.json').write_text(json.dumps(config_lib.to_json(config)))
  lines = [
    {'step': 2, 'loss': 1.0, 'accuracy': 0.9},
    {'step': 2, **{f'eval/{k}': 0.125 for k in evaluated}},
    {'step': 4, **{f'eval/{k}': v for k, v in evaluated.items()}},
  ]
  text = ''.join(f'{json.dumps(line)}\n' for line in lines)
  (path / 'metrics.jsonl').write_text(text)
  return str(path)


@pytest.fixture
def runs(tmp_path):
  task = CompressorTask(tower='x')
  first = {'accuracy_4': 0.5, 'accuracy_16': 0.75, 'random_4': 0.25}
  return [
    a_run(tmp_path / 'm3', task, first),
    a_run(tmp_path / 'mqt', task, {'accuracy_9': 0.625, 'tokens_9': 7.5}),
  ]


def test_the_last_evaluation_counts(runs):
  rows = compressing.compressing_rows(dict(zip('ab', runs, strict=True)))
  assert rows == {
    'a': {16: 0.75, 4: 0.5},
    'a, reads random': {4: 0.25},
    'b': {9: 0.625},
  }
  assert list(rows['a']) == [16, 4]
  assert compressing.compressing_table(rows).splitlines() == [
    '| tokens          | 16    | 9     | 4     |',
    '|-----------------|-------|-------|-------|',
    '| a               | 0.750 |       | 0.500 |',
    '| a, reads random |       |       | 0.250 |',
    '| b               |       | 0.625 |       |',
  ]


def test_report_of_compressors(runs, tmp_path, capsys):
  cli.main([*runs, '--out', str(tmp_path / 'out')])
  text = capsys.readouterr().out
  assert '| mqt              |       | 0.625 |       |' in text
  found = {p.name for p in (tmp_path / 'out').iterdir()}
  assert found == {'compressors.md', 'compressors.png', 'same_reader.png'}
  other = a_run(tmp_path / 'vit', ClassifierTask(), {})
  with pytest.raises(UserError, match='report them apart'):
    cli.main([*runs, other, '--out', str(tmp_path / 'out')])
