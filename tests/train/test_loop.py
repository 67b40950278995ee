import dataclasses
import json
import math
from typing import ClassVar

import jax
import numpy as np
import pytest
import toys

from tokpress_jax import registry
from tokpress_jax.errors import UserError
from tokpress_jax.train import dry_run, evaluate, loop, tree
from tokpress_jax.train.checkpoint import Checkpoints
from tokpress_jax.train.job import prepare


def fit(config, workdir, data=toys.DATA):
  return loop.fit(config, workdir, devices=jax.devices()[:1], data=data)


def rows(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  found = [json.loads(line) for line in text.splitlines()]
  timing = ('seconds/', 'images_per_second')
  return [
    {k: v for k, v in row.items() if not k.startswith(timing)} for row in found
  ]


def saved(workdir, step=None):
  with Checkpoints(str(workdir / 'checkpoints')) as checkpoints:
    return checkpoints.steps(), tree.named(checkpoints.load(step=step).state)


def equal(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


BASE = toys.config(
  steps=9,
  ema_decay=0.99,
  eval_every=4,
  checkpoint_every=4,
  optim={'decay_steps': 9, 'learning_rate': 0.01},
)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('whole')
  return workdir, fit(BASE, workdir)


def test_a_run_learns_and_writes_every_step(whole):
  workdir, results = whole
  found = rows(workdir)
  steps = [row['step'] for row in found if 'loss' in row]
  assert steps == list(range(1, 10))
  assert [row['step'] for row in found if 'eval/error' in row] == [4, 8, 9]
  assert found[-1]['eval/error'] < found[4]['eval/error']
  assert results['step'] == 9
  assert results['loss'] == found[-2]['loss']
  assert results['eval/error'] == found[-1]['eval/error']
  assert saved(workdir)[0] == [4, 8, 9]
  assert json.loads((workdir / 'config.json').read_text())['name'] == 'toy'
  line = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])
  assert {f'seconds/{k}' for k in ('compile', 'data', 'step', 'eval')} < set(
    line
  )


@pytest.mark.parametrize('stop', [4, 5])
def test_a_run_in_two_parts_is_bitwise_the_same(whole, tmp_path, stop):
  train = dataclasses.replace(BASE.train, steps=stop)
  fit(dataclasses.replace(BASE, train=train), tmp_path)
  results = fit(BASE, tmp_path)
  equal(saved(tmp_path)[1], saved(whole[0])[1])
  assert rows(tmp_path) == rows(whole[0])
  assert results['eval/error'] == whole[1]['eval/error']


def test_a_finished_run_is_evaluated_again_and_left_alone(whole, tmp_path):
  fit(BASE, tmp_path)
  before = rows(tmp_path)
  results = fit(BASE, tmp_path)
  assert rows(tmp_path) == before
  assert results['eval/error'] == whole[1]['eval/error']


def test_the_table_is_for_several_devices(tmp_path, capsys):
  train = dataclasses.replace(BASE.train, steps=1)
  config = dataclasses.replace(BASE, train=train)
  for count in (1, 2):
    devices = jax.devices()[:count]
    loop.fit(config, tmp_path / str(count), devices=devices, data=toys.DATA)
    out = capsys.readouterr().out
    assert ('encoder/kernel' in out) == (count > 1)
    assert ('total of all variables' in out) == (count == 1)


def test_a_resume_may_change_schedule_and_mesh(whole, tmp_path):
  train = dataclasses.replace(BASE.train, steps=4)
  fit(dataclasses.replace(BASE, train=train), tmp_path)
  optim = dataclasses.replace(BASE.optim, schedule='constant', warmup_steps=3)
  mesh = toys.MeshConfig(fsdp=4, data=2)
  config = dataclasses.replace(BASE, optim=optim, mesh=mesh)
  loop.fit(config, tmp_path, data=toys.DATA)
  losses = [[r for r in rows(w) if 'loss' in r] for w in (tmp_path, whole[0])]
  ours, theirs = losses
  assert ours[-1]['step'] == 9
  assert ours[-1]['learning_rate'] == pytest.approx(0.01)
  # Step 5 starts from the same parameters and has another learning rate.
  assert ours[4]['loss'] == pytest.approx(theirs[4]['loss'], rel=1e-5)
  assert ours[-1]['loss'] != pytest.approx(theirs[-1]['loss'], rel=1e-3)


def test_evaluation_counts_each_record_once(whole):
  _, state = saved(whole[0])
  params = {
    'encoder': {
      'kernel': state['ema/encoder/kernel'],
      'bias': state['ema/encoder/bias'],
    },
    'decoder': {'kernel': state['ema/decoder/kernel']},
  }
  images = np.stack([toys.record(i)['image'] for i in range(toys.RECORDS)])
  errors = np.square(toys.forward(params, images) - images[:, 0, :, 0] - 0.5)
  assert whole[1]['eval/error'] == pytest.approx(errors.mean(), rel=1e-5)


def test_any_checkpoint_can_be_evaluated(whole):
  options = {'devices': jax.devices()[:2], 'data': toys.DATA}
  logged = {r['step']: r for r in rows(whole[0]) if 'eval/error' in r}
  for step in (4, None):
    found = evaluate.evaluate(BASE, whole[0], step, **options)
    assert found['step'] == (step or 9)
    assert found['error'] == pytest.approx(
      logged[found['step']]['eval/error'], rel=1e-5
    )
  with pytest.raises(UserError, match='No step 5'):
    evaluate.evaluate(BASE, whole[0], 5, **options)
  other = dataclasses.replace(BASE, task=toys.Regression(width=9))
  with pytest.raises(UserError, match=r'kernel: \(16, 8\) there, \(16, 9\)'):
    evaluate.evaluate(other, whole[0], **options)
  with pytest.raises(UserError, match='no such directory'):
    evaluate.evaluate(BASE, whole[0] / 'nowhere', **options)


def test_nan_stops_with_its_name_and_leaves_the_last_good_state(
  whole, tmp_path
):
  with pytest.raises(loop.NonFiniteError, match=r'step 8: .*loss is nan') as e:
    fit(BASE, tmp_path, toys.data(poison=7))
  assert 'last good checkpoint is step 4' in str(e.value)
  steps, state = saved(tmp_path)
  assert steps == [4]
  equal(state, saved(whole[0], 4)[1])
  assert rows(tmp_path)[-1]['step'] == 7


def test_two_programs_take_turns(tmp_path):
  config = toys.config(
    toys.Game(),
    steps=8,
    ema_decay=0.9,
    optim={'groups': (('judge', 'learning_rate', 0.5),)},
  )
  results = fit(config, tmp_path)
  assert results['loss'] == results['play/loss']
  found = [row for row in rows(tmp_path) if 'loss' in row]
  turns = [row['step'] for row in found if 'judge/loss' in row]
  assert turns == [4, 6, 8]  # steps 3, 5, 7 counted from 0
  assert found[3]['judge/step'] == 3
  assert found[3]['judge/learning_rate'] == pytest.approx(0.5)
  _, state = saved(tmp_path)
  np.testing.assert_array_equal(state['variables/params/spectator/kernel'], 1)
  assert (state['variables/params/judge/kernel'] != 1).all()
  counts = {k: v for k, v in state.items() if k.endswith('count')}
  assert sorted(set(map(int, counts.values()))) == [3, 8]
  assert not any('spectator' in k for k in state if k.startswith('ema'))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(toys.Game):
  traced: ClassVar[list[str]] = []

  def programs(self):
    def spy(program):
      def loss(*args):
        self.traced.append(program.name)
        return program.loss(*args)

      return dataclasses.replace(program, loss=loss)

    return tuple(spy(p) for p in super().programs())


registry.register('toy_counting', Counting, family='task')


def test_each_program_is_traced_once(tmp_path):
  fit(toys.config(Counting(), steps=8, eval_every=2), tmp_path)
  assert sorted(Counting.traced) == ['judge', 'play']


def test_programs_must_make_sense(tmp_path):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Wrong(toys.Game):
    def programs(self):
      _, judge = super().programs()
      return (judge,)

  with pytest.raises(UserError, match='one must run at every step'):
    fit(toys.config(Wrong()), tmp_path)


def test_warm_start_takes_what_the_regex_names():
  config = toys.config(
    ema_decay=0.9, init_from='elsewhere', init_regex='params/encoder'
  )
  job = prepare(config, devices=jax.devices()[:1], data=toys.DATA)
  source = {
    'params': {
      'encoder': {
        'kernel': np.full((16, 8), 2.0),
        'bias': np.full((8,), 3.0),
      }
    }
  }
  with jax.set_mesh(job.mesh):
    first = job.init()
    state = job.warm_start(first, source)
    assert (state.variables['params']['encoder']['bias'] == 3).all()
    assert (state.ema['encoder']['kernel'] == 2).all()
    np.testing.assert_array_equal(
      state.variables['params']['decoder']['kernel'],
      first.variables['params']['decoder']['kernel'],
    )
    source['params']['encoder']['kernel'] = np.zeros((16, 9))
    del source['params']['encoder']['bias']
    with pytest.raises(UserError, match='elsewhere cannot start') as error:
      job.warm_start(first, source)
  assert 'params/encoder/bias is missing' in str(error.value)
  assert 'is (16, 9) there and (16, 8) here' in str(error.value)


def test_warm_start_from_another_run(whole, tmp_path):
  train = dataclasses.replace(
    BASE.train, steps=1, seed=1, init_from=str(whole[0])
  )
  optim = dataclasses.replace(BASE.optim, learning_rate=0.0)
  fit(dataclasses.replace(BASE, train=train, optim=optim), tmp_path)
  ours, theirs = saved(tmp_path)[1], saved(whole[0])[1]
  for name in ('encoder/kernel', 'encoder/bias', 'decoder/kernel'):
    np.testing.assert_array_equal(
      ours[f'variables/params/{name}'], theirs[f'ema/{name}']
    )
  assert (
    ours['variables/codebook/seen'] == theirs['variables/codebook/seen'] + 8
  )


def test_dry_run_adds_up(capsys):
  config = dataclasses.replace(BASE, mesh=toys.MeshConfig(model=2, data=4))
  sizes = dry_run.dry_run(config, data=toys.DATA)
  # encoder 16x8 over 2 devices, bias 8, decoder 8x4; Adam has two moments.
  assert sizes['params'] == 4 * (64 + 8 + 32)
  assert sizes['optimizer'] == 2 * sizes['params'] + 2 * 4
  assert sizes['ema'] == sizes['params']
  assert sizes['batch'] == 2 * (16 * 4 + 4 + 4 + 1)
  assert sizes['fit: peak'] >= sizes['fit: arguments'] > 0
  out = capsys.readouterr().out
  assert 'mesh data 4 x fsdp 1 x model 2' in out
  assert 'params/encoder/kernel  16x8' in out


def test_a_directory_of_another_run_is_refused(whole):
  other = dataclasses.replace(BASE, task=toys.Regression(width=9))
  with pytest.raises(UserError, match=r'task\.width: 8 -> 9'):
    fit(other, whole[0])


def test_wrong_sizes_are_one_paragraph(tmp_path):
  for config, words in [
    (toys.config(batch_size=7), 'does not divide'),
    (toys.config(mesh={'fsdp': 3}), 'does not fit'),
  ]:
    with pytest.raises(UserError, match=words) as error:
      loop.fit(config, tmp_path, data=toys.DATA)
    assert '\n' not in str(error.value)
  assert not math.prod(1 for _ in tmp_path.iterdir()) - 1
