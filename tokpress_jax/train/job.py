"""Everything that is decided before the first step, without touching a device.

`prepare` turns a configuration into a `Job`: the mesh, the task bound to its
data, each program's optimiser, and the shape and sharding of every array.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tokpress_jax.config import Config
from tokpress_jax.errors import UserError
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train import optim, sharding, state, tree
from tokpress_jax.train.task import FROZEN, Program, Task, Variables

# Streams of randomness beside the steps', which are numbered from 0.
_INIT = 2**32 - 1
_EVAL = 2**32 - 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
  """A run that is ready to start.

  Attributes:
    config: The whole configuration.
    task: The task, bound to the data and to the precision.
    data: What gives `Stream` and `eval_batches`.
    stream: The training data of this process.
    mesh: The devices.
    share: (index, count): this process's part of every batch.
    programs: The task's programs.
    members: Program name -> names of the parameters it trains.
    schedules: Program name -> learning rate by number of updates.
    optimizers: Program name -> optimiser.
    constants: Frozen inputs on the host.
    abstract: The state, as shapes with shardings.
  """

  config: Config
  task: Task
  data: Any
  stream: Any
  mesh: jax.sharding.Mesh
  share: tuple[int, int]
  programs: tuple[Program, ...]
  members: Mapping[str, tuple[str, ...]]
  schedules: Mapping[str, optim.Schedule]
  optimizers: Mapping[str, optax.GradientTransformation]
  constants: Any
  abstract: state.TrainState

  @property
  def shardings(self) -> state.TrainState:
    """The sharding of every leaf of the state."""
    return jax.tree.map(lambda x: x.sharding, self.abstract)

  def eval_rng(self, batch: Any) -> jax.Array:
    """The key of an evaluation batch, the same at every step of the run."""
    key = jax.random.key(self.config.train.seed)
    return jax.random.fold_in(jax.random.fold_in(key, _EVAL), batch)

  def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Makes global arrays of this process's part of a batch."""
    return mesh_lib.put_batch(batch, self.mesh, count=self.share[1])

  def place(self, variables: Variables) -> Variables:
    """Puts host arrays of all variables where they belong."""
    return jax.tree.map(
      lambda x, y: mesh_lib.put(y, x.sharding),
      self.abstract.variables,
      variables,
    )

  def init(self) -> state.TrainState:
    """Returns the state of step 0, each array made where it belongs."""
    key = jax.random.fold_in(
      jax.random.key(self.config.train.seed), np.uint32(_INIT)
    )
    shardings = self.shardings
    free = {k: v for k, v in shardings.variables.items() if k != FROZEN}

    def create(rng: jax.Array) -> state.TrainState:
      return state.create(
        self.task.init(rng),
        self.optimizers,
        self.members,
        ema=self.config.train.ema_decay is not None,
      )

    out = jax.jit(
      create, out_shardings=dataclasses.replace(shardings, variables=free)
    )(key)
    if FROZEN in shardings.variables:
      frozen = jax.tree.map(
        mesh_lib.put, self.constants, shardings.variables[FROZEN]
      )
      variables = {**out.variables, FROZEN: frozen}
      out = dataclasses.replace(out, variables=variables)
    loaded = tree.named(self.task.start())
    return _replaced(out, loaded) if loaded else out

  def warm_start(
    self, at: state.TrainState, source: Variables
  ) -> state.TrainState:
    """Takes the variables that `train.init_regex` names from `source`.

    Args:
      at: The state of step 0.
      source: Variables of an exported model or of another run.

    Raises:
      UserError: If a named variable is missing there or has another shape.
    """
    train = self.config.train
    ours = {n: x for n, x in tree.named(at.variables).items() if _own(n)}
    tree.check_patterns('train.init_regex', [train.init_regex], ours)
    theirs = tree.named(source)
    rules = [(train.init_regex, True)]
    wanted = [n for n in ours if tree.first_match(rules, n)]
    lines = [f'{n} is missing' for n in wanted if n not in theirs] + [
      f'{n} is {theirs[n].shape} there and {ours[n].shape} here'
      for n in wanted
      if n in theirs and theirs[n].shape != ours[n].shape
    ]
    if lines:
      raise UserError(
        f'{train.init_from} cannot start this model: {"; ".join(lines[:20])}. '
        'Narrow train.init_regex to the variables to take.'
      )
    return _replaced(at, {name: theirs[name] for name in wanted})


def _replaced(
  at: state.TrainState, arrays: Mapping[str, Any]
) -> state.TrainState:
  """The state of step 0 with some variables, by name, and their averages."""

  def take(name: str, x: jax.Array) -> jax.Array:
    if name not in arrays:
      return x
    return mesh_lib.put(np.asarray(arrays[name], x.dtype), x.sharding)

  variables = tree.map_named(take, at.variables)
  kept = tree.named(at.ema)
  # A copy: the step is given both trees to overwrite.
  ema = jax.tree.map(lambda x: x.copy(), tree.select(variables['params'], kept))
  return dataclasses.replace(at, variables=variables, ema=ema)


def _own(name: str) -> bool:
  return not name.startswith(f'{FROZEN}/')


def prepare(
  config: Config,
  *,
  devices: Sequence[jax.Device] | None = None,
  data: Any = None,
) -> Job:
  """Checks a configuration and works out every shape and sharding.

  Args:
    config: The whole configuration.
    devices: The devices to train on; all by default.
    data: An object with `Stream` and `eval_batches` instead of
      `tokpress_jax.data`, for data that no `DataConfig` describes.

  Raises:
    UserError: If mesh, batch, groups, patterns or sharding rules do not fit.
  """
  if data is None:
    from tokpress_jax import data
  train = config.train
  mesh = mesh_lib.make_mesh(config.mesh, devices=devices)
  mesh_lib.check_batch(mesh, train.batch_size, accumulate=train.accumulate)
  share = mesh_lib.host_share(mesh, train.batch_size)
  stream = data.Stream(
    config.data,
    batch_size=train.batch_size,
    seed=train.seed,
    process_index=share[0],
    process_count=share[1],
  )
  if config.task.precision not in ('float32', train.precision):
    raise UserError(
      f'task.precision is {config.task.precision!r} and train.precision '
      f'{train.precision!r}. Set train.precision only: the trainer copies it.'
    )
  task = dataclasses.replace(config.task, precision=train.precision)
  task = task.bind(stream.info)
  programs = task.programs()
  _check_programs(programs)
  constants = task.constants()
  key = jax.eval_shape(lambda: jax.random.key(0))
  variables = dict(jax.eval_shape(task.init, key))
  if jax.tree.leaves(constants):
    variables[FROZEN] = jax.eval_shape(lambda: constants)

  names = list(tree.named(variables['params']))
  group_of = optim.assign_groups(
    names, task.groups, programs, freeze=train.freeze
  )
  optim.check(config.optim, names, {p.group for p in programs})
  members, schedules, optimizers = {}, {}, {}
  for program in programs:
    own = optim.group_config(config.optim, program.group)
    members[program.name] = tuple(
      n for n in names if group_of[n] == program.group
    )
    if program.optimizer:
      continue
    updates = max(int(count_updates(program, train.steps, programs)), 1)
    schedules[program.name] = optim.make_schedule(own, updates)
    optimizers[program.name] = optim.make_optimizer(
      own,
      schedules[program.name],
      tree.select(variables['params'], members[program.name]),
      steps=updates,
    )

  abstract = jax.eval_shape(
    lambda v: state.create(
      v, optimizers, members, ema=train.ema_decay is not None
    ),
    variables,
  )
  shardings = state.state_shardings(
    abstract,
    sharding.shard(variables, mesh, config.mesh, rules=task.sharding_rules),
    optimizers,
    members,
    mesh_lib.replicated(mesh),
  )
  abstract = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
    abstract,
    shardings,
  )
  return Job(
    config=config,
    task=task,
    data=data,
    stream=stream,
    mesh=mesh,
    share=share,
    programs=programs,
    members=members,
    schedules=schedules,
    optimizers=optimizers,
    constants=constants,
    abstract=abstract,
  )


def _check_programs(programs: Sequence[Program]) -> None:
  names = [p.name for p in programs]
  if not programs or len(set(names)) < len(names):
    raise UserError(
      f'The task has the programs {names}; expected at least one, and no name '
      'twice.'
    )
  for i, program in enumerate(programs):
    earlier = {p.name: p.group for p in programs[:i] if not p.optimizer}
    if program.optimizer and earlier.get(program.optimizer) != program.group:
      raise UserError(
        f'Program {program.name!r} shares the optimiser of '
        f'{program.optimizer!r}; expected an earlier program of its group with '
        f'an optimiser of its own: {sorted(earlier)}.'
      )
  always = any(p.active_from == 0 and p.runs == p.every for p in programs)
  period = 1 if always else math.lcm(*(p.every for p in programs))
  idle = [s for s in range(period) if not any(p.active(s) for p in programs)]
  if idle:
    raise UserError(
      f'No program of {names} runs at step {idle[0]} (and {len(idle) - 1} more '
      f'of the first {period}); one must run at every step.'
    )


def count_updates(
  program: Program, step: Any, programs: Sequence[Program]
) -> Any:
  """Updates that a program's optimiser has made before a step.

  Args:
    program: One of `programs`.
    step: From 0; may be traced.
    programs: All of the task. Those that share an optimiser take turns.
  """
  if sum(p.owner == program.owner for p in programs) > 1:
    return step
  since = step - program.active_from
  rest = jnp.minimum(since % program.every, program.runs)
  return since // program.every * program.runs + rest
