import builtins
import io
import json

import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.train.progress import Ledger, Progress
from tokpress_jax.train.writer import JsonLines, Writers
from tokpress_jax.workdir import METRICS as FILE


def lines(path):
  return [json.loads(line) for line in (path / FILE).read_text().splitlines()]


@pytest.mark.parametrize('bucket', [False, True])
def test_a_resumed_run_takes_later_lines_away(tmp_path, bucket):
  writer = JsonLines(str(tmp_path))
  writer._bucket = bucket
  for step in range(1, 6):
    writer.write(step, {'loss': 1 / step})
  writer.write(3, {'eval/psnr': 1.0})
  with (tmp_path / FILE).open('a') as file:
    file.write('{"step": 6, "lo')
  writer = JsonLines(str(tmp_path), after=3)
  writer._bucket = bucket
  writer.write(4, {'loss': 9.0, 'psnr': float('inf')})
  assert [row['step'] for row in lines(tmp_path)] == [1, 2, 3, 4]
  assert lines(tmp_path)[-1] == {'step': 4, 'loss': 9.0, 'psnr': None}


def test_tensorboard_writes_events(tmp_path):
  pytest.importorskip('tensorboardX')
  with Writers(str(tmp_path), ('tensorboard',)) as writers:
    writers.write(1, {'loss': 0.5})
  events = list((tmp_path / 'tensorboard').iterdir())
  assert any(b'loss' in path.read_bytes() for path in events)
  assert lines(tmp_path) == [{'step': 1, 'loss': 0.5}]


@pytest.mark.parametrize('name', ['tensorboard', 'wandb'])
def test_a_writer_that_is_not_installed_says_how(tmp_path, monkeypatch, name):
  real = builtins.__import__

  def absent(module, *args, **kwargs):
    if module in ('tensorboardX', 'wandb'):
      raise ImportError(module)
    return real(module, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', absent)
  with pytest.raises(UserError, match=rf'tokpress_jax\[{name}\]'):
    Writers(str(tmp_path), (name,))


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_plain_lines_and_a_bar():
  plain, terminal = io.StringIO(), Terminal()
  for out in (plain, terminal):
    with Progress(10, start=4, batch_size=8, out=out) as show:
      show.say('hello')
      show.advance()
      rate = show.log(5, {'loss': 0.25}, seconds=0.5)
    assert rate == 16
  assert plain.getvalue().splitlines() == [
    'hello',
    'step 5/10  loss 0.25  2 steps/s  16 images/s  left 0:00:02',
  ]
  assert 'hello' in terminal.getvalue()
  assert '5/10' in terminal.getvalue()


def test_the_ledger_adds_up():
  ledger = Ledger()
  for _ in range(2):
    with ledger.time('step'):
      pass
  assert set(ledger.metrics()) == {'seconds/step'}
  assert str(ledger).startswith('time: step')
