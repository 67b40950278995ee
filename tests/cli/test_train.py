"""`tokpress train`: overrides, errors as one paragraph, work directories."""

import functools
import json
import pathlib
import signal

import command
import pytest

from tokpress_jax import __main__ as entry
from tokpress_jax.cli import train
from tokpress_jax.train.preempt import Preemption

CONFIG = str(pathlib.Path(__file__).with_name('cli_tiny_config.py'))


run = functools.partial(command.run, 'train')


def test_overrides():
  flags, config = train.parse(
    (
      f'{CONFIG} --workdir w --train.steps 500 --mesh.fsdp 4 --task.width 7 '
      '--train.ema-decay 0.9 --dry-run'
    ).split()
  )
  assert flags.workdir == 'w' and flags.dry_run
  assert config.train.steps == 500 and config.mesh.fsdp == 4
  assert config.task.width == 7 and config.train.ema_decay == 0.9
  assert config.train.batch_size == 16  # From the file.


def test_help_lists_every_field(capsys):
  assert run(CONFIG, '--help') == 0
  text = capsys.readouterr().out
  for field in ('--task.width', '--mesh.fsdp', '--data.name', '--optim.b2'):
    assert field in text
  assert 'Of the bottleneck.' in text
  assert run('--help') == 0
  assert '--train.steps' in capsys.readouterr().out


@pytest.mark.parametrize(
  'argv, message',
  [
    ([CONFIG, '--train.step', '3'], '--train.steps'),
    ([CONFIG, '--train.steps', 'x'], '--train.steps'),
    ([CONFIG, '--train.steps', '0'], 'at least 1'),
    ([CONFIG], 'needs a work directory'),
    ([], 'Give a config file'),
    (['configs/none.py', '--workdir', 'x'], 'no config file'),
    (['--workdir', 'no-such-run'], 'does not exist'),
  ],
)
def test_errors_are_short(argv, message, capsys):
  assert run(*argv) == 2
  text = capsys.readouterr().err
  assert message in text
  assert 'Traceback' not in text and len(text.splitlines()) < 25


def test_unknown_command(capsys):
  assert entry.main(['trian']) == 2
  assert "Did you mean 'train'" in capsys.readouterr().err
  assert entry.main([]) == 2
  assert entry.main(['--help']) == 0


def test_errors_of_others_keep_their_trace(monkeypatch):
  def broken(argv):
    return {}['x']

  monkeypatch.setattr(train, 'main', broken)
  with pytest.raises(KeyError):
    run()


def test_train_resume_and_refuse(tmp_path, capsys):
  workdir = tmp_path / 'run'
  assert run(CONFIG, '--workdir', workdir) == 0
  assert json.loads((workdir / 'config.json').read_text())['name'] == 'tiny'
  assert run(CONFIG, '--workdir', workdir, '--train.seed', 3) == 2
  assert 'train.seed: 0 -> 3' in capsys.readouterr().err
  # Without the file, the run goes on by its own config.
  assert run('--workdir', workdir, '--train.steps', 5) == 0
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert max(json.loads(line)['step'] for line in lines) == 5


def test_a_config_that_does_not_fit_can_be_corrected(tmp_path, capsys):
  workdir = tmp_path / 'run'
  assert run(CONFIG, '--workdir', workdir, '--train.batch-size', 12) == 2
  assert '12' in capsys.readouterr().err
  assert run(CONFIG, '--workdir', workdir, '--train.batch-size', 8) == 0


@pytest.mark.parametrize(
  'option, value', [('data.image-size', '9'), ('train.init-from', './none')]
)
def test_a_rejected_run_leaves_no_directory(tmp_path, capsys, option, value):
  config = pathlib.Path(__file__).with_name('one_d_tiny_config.py')
  workdir = tmp_path / 'run'
  assert run(config, '--workdir', workdir, f'--{option}', value) == 2
  assert value in capsys.readouterr().err
  assert not workdir.exists()


def test_a_finished_run_keeps_its_config(tmp_path, capsys):
  config = (CONFIG, '--workdir', tmp_path, '--train.log-every')
  assert run(*config, 1) == 0
  before = (tmp_path / 'config.json').read_bytes()
  assert run(*config, 2) == 0
  assert 'Step 3 of 3 is done already' in capsys.readouterr().out
  assert run(*config, 2, '--train.steps', 2) == 2
  error = capsys.readouterr().err
  assert 'has done step 3 already' in error and '--train.steps 2' in error
  assert (tmp_path / 'config.json').read_bytes() == before
  assert run(*config, 2, '--train.steps', 4) == 0
  assert (tmp_path / 'config.json').read_bytes() != before


@pytest.mark.parametrize(
  'before, after, saved', [(1, 0, None), (0, 1, 3), (0, 2, None)]
)
def test_ctrl_c(tmp_path, monkeypatch, capsys, before, after, saved):
  """`before` the first step is known to be done, or `after` the second."""
  reached = Preemption.reached

  def press(self, step):
    for _ in range(before):
      signal.raise_signal(signal.SIGINT)
    found = reached(self, step)
    for _ in range(after if step == 2 else 0):
      signal.raise_signal(signal.SIGINT)
    return found

  old = signal.signal(signal.SIGINT, signal.default_int_handler)
  argv = (CONFIG, '--workdir', tmp_path, '--train.steps', 5)
  try:
    with monkeypatch.context() as patch:
      patch.setattr(Preemption, 'reached', press)
      assert run(*argv) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
  finally:
    signal.signal(signal.SIGINT, old)
  text = capsys.readouterr().out
  line = f'saved step {saved}; the same command goes on'
  assert (line in text) == (saved is not None)
  assert run(*argv) == 0
  assert f'Training from step {saved or 0} to 5' in capsys.readouterr().out
