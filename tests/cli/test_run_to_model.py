"""From a run to a model directory: the averaged weights, measured equal."""

import json
import pathlib

import jax
import numpy as np
import pytest

from tokpress_jax import __main__ as entry
from tokpress_jax.io import load as load_lib
from tokpress_jax.io import safetensors, stablehlo
from tokpress_jax.train.checkpoint import Checkpoints

CONFIG = pathlib.Path(__file__).with_name('one_d_tiny_config.py')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run') / 'w'
  assert entry.main(['train', str(CONFIG), '--workdir', str(workdir)]) == 0
  return workdir


def test_export(run, tmp_path):
  argv = ['export', str(run), str(tmp_path / 'm'), '--licence', 'CC0-1.0']
  assert entry.main([*argv, '--stablehlo', '--platforms', 'cpu']) == 0
  model, live = load_lib.load(tmp_path / 'm'), load_lib.load(run)
  assert model.spec.name == live.spec.name == 'tiny digits'
  assert model.spec.licence == 'CC0-1.0'
  with Checkpoints(run / 'checkpoints', read_only=True) as checkpoints:
    state = checkpoints.load().state
  params = safetensors.flatten(model.variables['params'])
  averaged = safetensors.flatten(state['ema'])
  raw = safetensors.flatten(state['variables']['params'])
  for name, value in params.items():
    np.testing.assert_array_equal(value, averaged[name], err_msg=name)
  assert any((averaged[name] != raw[name]).any() for name in raw)
  jax.tree.map(np.testing.assert_array_equal, model.variables, live.variables)
  assert set(stablehlo.load_programs(tmp_path / 'm')) == {'encode', 'decode'}
  card = (tmp_path / 'm' / 'README.md').read_text()
  assert '- eval/psnr: ' in card and '- Steps: 2 of 32 images' in card


def test_run_and_model_measure_the_same(run, tmp_path):
  entry.main(['export', str(run), str(tmp_path / 'm')])
  found = []
  for name, more in ((run, []), (tmp_path / 'm', ['--data', 'digits'])):
    out = tmp_path / 'metrics.json'
    argv = ['evaluate', str(name), '--batch-size', '64', '--json', str(out)]
    assert entry.main([*argv, *more]) == 0
    found.append(json.loads(out.read_text())['psnr'])
  assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_what_is_measured_and_replaced_is_said(run, tmp_path, capsys):
  argv = ['export', str(run), str(tmp_path / 'm')]
  assert entry.main(argv) == 0
  assert 'Replaced' not in capsys.readouterr().out
  assert entry.main(argv) == 0
  assert 'Replaced the model that was in' in capsys.readouterr().out
  assert entry.main(['evaluate', str(run), '--split', 'train']) == 0
  assert 'data set digits, split train' in capsys.readouterr().out
  argv = ['evaluate', str(tmp_path / 'm'), '--data', 'digits']
  assert entry.main(argv) == 0
  assert 'data set digits, split test' in capsys.readouterr().out


def test_step_that_does_not_exist(run, capsys):
  assert entry.main(['evaluate', str(run), '--step', '7']) == 2
  assert 'there are [2]' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['evaluate', 'reconstruct'])
def test_checkpoint_of_another_model(run, command, capsys):
  """The same directory, with a config that was changed by hand."""
  argv = [command, str(run)] + ['x.png'] * (command == 'reconstruct')
  file = run / 'config.json'
  good = file.read_text()
  try:
    file.write_text(good.replace('"width": 16', '"width": 32'))
    assert entry.main(argv) == 2
  finally:
    file.write_text(good)
  text = capsys.readouterr().err
  assert 'of another model' in text and 'params/patch_embed/kernel' in text


def test_dry_run_writes_nothing(tmp_path, capsys):
  workdir = str(tmp_path / 'none')
  argv = ['train', str(CONFIG), '--workdir', workdir, '--dry-run']
  assert entry.main(argv) == 0
  text = capsys.readouterr().out
  assert 'params/patch_embed/kernel' in text and 'MB per device' in text
  assert not (tmp_path / 'none').exists()
