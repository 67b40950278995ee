"""Programs that take turns at one optimiser, and MVAR's passes as such."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
import toys

from tokpress_jax import registry
from tokpress_jax.errors import UserError
from tokpress_jax.train.job import count_updates, prepare
from tokpress_jax.train.loop import fit
from tokpress_jax.train.task import Program, Task
from tokpress_jax.train.tasks import GeneratorTask


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turns(Task):
  """Two losses of one weight: for three steps up, for one step down."""

  def init(self, rng):
    return {'params': {'kernel': jnp.zeros((2,))}}

  def programs(self):
    up = lambda v, b, r, s: (-v['params']['kernel'].sum(), {}, {})
    down = lambda v, b, r, s: (v['params']['kernel'].sum(), {}, {})
    return (
      Program(name='up', loss=up, every=4, runs=3),
      Program(name='down', loss=down, every=4, active_from=3, optimizer='up'),
    )

  def evaluate(self, variables, batch, rng):
    return {'kernel': (variables['params']['kernel'].sum(), jnp.float32(1))}


registry.register('toy_turns', Turns, family='task')
OPTIM = {'name': 'sgd', 'learning_rate': 1.0, 'schedule': 'constant',
         'b1': 0.5, 'clip_norm': None}  # fmt: skip


def test_one_optimiser_goes_through_all_turns(tmp_path):
  """The momentum of the steps up is still there in the step down."""
  found = fit(toys.config(Turns(), steps=7, optim=OPTIM), tmp_path)
  weight = momentum = 0.0
  for step in range(7):
    gradient = 1.0 if step % 4 == 3 else -1.0
    momentum = 0.5 * momentum + gradient
    weight -= momentum
  assert found['eval/kernel'] == pytest.approx(2 * weight)


def test_turns_resume_where_they_were(tmp_path):
  run = lambda steps, where: fit(
    toys.config(Turns(), steps=steps, optim=OPTIM), tmp_path / where
  )
  whole = run(7, 'a')
  run(5, 'b')
  assert run(7, 'b')['eval/kernel'] == whole['eval/kernel']


def test_a_line_shows_each_programs_last_step(tmp_path):
  fit(toys.config(Turns(), steps=8, optim=OPTIM, log_every=4), tmp_path)
  text = (tmp_path / 'metrics.jsonl').read_text().splitlines()
  lines = [json.loads(line) for line in text]
  at = {line['step']: line for line in lines if 'loss' in line}
  assert 'down/loss' not in at[1]
  for step in (4, 8):
    assert {'up/loss', 'down/loss'} <= at[step].keys()


def test_a_schedule_counts_the_updates_of_its_optimiser():
  alone = Program(name='a', loss=print, active_from=2, every=5, runs=2)
  shared = Turns().programs()
  updates = 0
  for step in range(20):
    assert count_updates(shared[1], step, shared) == step
    if step >= 2:
      assert count_updates(alone, step, (alone,)) == updates
    updates += alone.active(step)


def test_a_shared_optimiser_must_exist(tmp_path):
  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Wrong(Turns):
    def programs(self):
      up, down = super().programs()
      return up, dataclasses.replace(down, optimizer='nobody')

  with pytest.raises(
    UserError, match="'down' shares the optimiser of 'nobody'"
  ):
    fit(toys.config(Wrong()), tmp_path)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  from tokpress_jax.io import export

  model = tiny_models.scale_wise().tokenizer
  path = tmp_path_factory.mktemp('turns') / 'tokenizer'
  return str(export.export(model.module, model.variables, path))


MVAR = dataclasses.replace(
  tiny_models.SCALE_WISE, sees='own', kernels=(None, 1), class_dropout=0.0
)


def test_the_passes_of_a_cycle_add_up_to_one_objective(tokenizer):
  """MVAR trains its scales apart: losses and gradients are those of all."""
  task = GeneratorTask(model=MVAR, tokenizer=tokenizer, turns=(3, 1))
  config = toys.config(task, batch_size=8)
  config = dataclasses.replace(
    config, data=dataclasses.replace(config.data, name='digits')
  )
  job = prepare(config, devices=jax.devices()[:1])
  first, second = job.programs
  assert [first.active(s) for s in range(8)] == [True, True, True, False] * 2
  assert [second.active(s) for s in range(8)] == [False] * 3 + [True] + (
    [False] * 3 + [True]
  )
  batch = jax.tree.map(jnp.asarray, next(job.stream.batches()))
  variables = dict(job.task.init(jax.random.key(0)))
  variables['frozen'] = job.task.constants()
  whole = dataclasses.replace(job.task, turns=())
  object.__setattr__(whole, '_loaded', job.task.loaded)

  def value(program):
    def loss(params):
      out = program.loss({**variables, 'params': params}, batch,
                         jax.random.key(1), jnp.int32(0))  # fmt: skip
      return out[0]

    return jax.jit(jax.value_and_grad(loss))(variables['params'])

  parts = [value(program) for program in job.programs]
  together = jax.tree.map(lambda a, b: a + b, *parts)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
    together,
    value(whole.programs()[0]),
  )


def test_turns_for_passes_that_are_not_there(tokenizer):
  task = GeneratorTask(model=MVAR, tokenizer=tokenizer, turns=(8, 1, 1))
  with pytest.raises(UserError, match='turns to 3 passes, and this generator'):
    task.programs()
