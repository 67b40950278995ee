"""One step of a program, compiled once before the run begins.

A program is compiled ahead of time for the shapes and shardings of the state
and of the first batch. A compiled program cannot compile again: a batch of
another shape is an error, not a slow step.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.train import optim, tree
from tokpress_jax.train.job import Job, count_updates
from tokpress_jax.train.mesh import BATCH_AXES, replicated
from tokpress_jax.train.state import TrainState
from tokpress_jax.train.task import Batch, Metrics, Program, Variables


class Compiled:
  """A function compiled for one set of shapes.

  Attributes:
    name: For messages.
    compilations: How often the function was traced and compiled: once.
    memory: XLA's memory analysis, or None where the backend gives none.
  """

  def __init__(
    self,
    name: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    **jit_options: Any,
  ):
    self.name = name
    self.compilations = 0

    def counted(*args: Any) -> Any:
      self.compilations += 1
      return function(*args)

    self._shapes = arguments
    jitted = jax.jit(counted, **jit_options)
    self._compiled = jitted.lower(*arguments).compile()
    self.memory = self._compiled.memory_analysis()
    if self.compilations != 1:
      raise AssertionError(
        f'{name} was traced {self.compilations} times; expected once.'
      )

  def __call__(self, *arguments: Any) -> Any:
    """Runs it; raises `UserError` if an array has another shape."""
    try:
      return self._compiled(*arguments)
    except TypeError as error:
      raise UserError(
        f'{self.name} was compiled for other shapes than it was given: '
        f'{"; ".join(_differences(self._shapes, arguments)) or error}. Every '
        'batch of a run must have the same keys, shapes and dtypes.'
      ) from error


def _differences(expected: Any, given: Any) -> list[str]:
  def rows(x: Any) -> dict[str, tuple[tuple[int, ...], str]]:
    return {n: (np.shape(v), str(v.dtype)) for n, v in tree.named(x).items()}

  a, b = rows(expected), rows(given)
  return [
    f'{name} expected {a.get(name)}, given {b.get(name)}'
    for name in sorted(a | b)
    if a.get(name) != b.get(name)
  ][:8]


def compile_program(job: Job, index: int, batch: Mapping[str, Any]) -> Compiled:
  """Compiles a program's step, `(state, batch, step) -> (state, metrics)`.

  The state is donated. `step` counts from 0.

  Args:
    job: The job.
    index: Which of `job.programs`.
    batch: A global batch, or its shapes with shardings.
  """
  program = job.programs[index]
  whole = replicated(job.mesh)
  return Compiled(
    f'program {program.name!r}',
    make_step(job, program, index),
    (
      job.abstract,
      _abstract(batch),
      jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    ),
    donate_argnums=0,
    out_shardings=(job.shardings, whole),
  )


def compile_evaluation(job: Job, batch: Mapping[str, Any]) -> Compiled:
  """Compiles `(variables, batch, number) -> {name: (sum, weight)}`."""

  def evaluate(variables: Any, batch: Batch, number: jax.Array) -> Any:
    return job.task.evaluate(variables, batch, job.eval_rng(number))

  whole = replicated(job.mesh)
  return Compiled(
    'the evaluation',
    evaluate,
    (
      job.abstract.variables,
      _abstract(batch),
      jax.ShapeDtypeStruct((), jnp.int32, sharding=whole),
    ),
    out_shardings=whole,
  )


def _abstract(batch: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  return {
    name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    for name, x in batch.items()
  }


def make_step(
  job: Job, program: Program, index: int
) -> Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]:
  """Returns a program's step, not yet compiled.

  Where the loss, a gradient, an update or a metric is not finite, the state
  comes back unchanged; the metrics say which it was.
  """
  train, task = job.config.train, job.task
  optimizer, schedule = (
    job.optimizers[program.owner],
    job.schedules[program.owner],
  )
  members = frozenset(job.members[program.name])

  def run(
    state: TrainState, batch: Batch, step: jax.Array
  ) -> tuple[TrainState, Metrics]:
    rng = jax.random.fold_in(jax.random.key(train.seed), step)
    rng = jax.random.fold_in(rng, index)
    variables = state.variables
    trained = tree.select(variables['params'], members)

    def loss_fn(trained: Any, batch: Batch, rng: jax.Array) -> Any:
      params = tree.merge(variables['params'], trained)
      loss, metrics, sums = program.loss(
        {**variables, 'params': params}, batch, rng, step
      )
      return loss, (_scalars(program, {'loss': loss, **metrics}), sums)

    def gradient(batch: Batch, rng: jax.Array) -> Any:
      (_, (metrics, sums)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
        trained, batch, rng
      )
      return grads, metrics, sums

    grads, metrics, sums = _accumulated(
      gradient, batch, rng, train.accumulate, job.mesh
    )
    updates, opt_state = optimizer.update(
      grads, state.opt_state[program.owner], trained
    )
    metrics['grad_norm'] = optax.tree_utils.tree_norm(grads)
    metrics['update_norm'] = optax.tree_utils.tree_norm(updates)
    count = count_updates(program, step, job.programs)
    metrics['learning_rate'] = schedule(count)

    trained = optax.apply_updates(trained, updates)
    new: Variables = {
      **variables,
      'params': tree.merge(variables['params'], trained),
    }
    if jax.tree.leaves(sums):
      before = new
      new = task.commit(
        new, sums, jax.random.fold_in(rng, train.accumulate), step
      )
      _check_commit(program, before, new)
      if train.freeze is not None:
        new = _kept(train.freeze, before, new)
      metrics['commit_norm'] = optax.tree_utils.tree_norm(_changed(before, new))
    ema = _averaged(state.ema, new['params'], members, train.ema_decay, step)
    after = TrainState(
      step=step + 1,
      variables=new,
      opt_state={**state.opt_state, program.owner: opt_state},
      ema=ema,
    )
    return _where_finite(metrics, after, state), metrics

  return run


def _accumulated(
  gradient: Callable[[Batch, jax.Array], Any],
  batch: Batch,
  rng: jax.Array,
  count: int,
  mesh: jax.sharding.Mesh,
) -> tuple[Any, Metrics, Any]:
  """Means of gradients and metrics, sums of updates, over microbatches."""
  if count == 1:
    return gradient(batch, jax.random.fold_in(rng, 0))
  sharding = NamedSharding(mesh, PartitionSpec(None, BATCH_AXES))

  def split(x: jax.Array) -> jax.Array:
    # Strided, so that no example leaves its device.
    x = x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)
    return jax.lax.with_sharding_constraint(x, sharding)

  parts = jax.tree.map(split, dict(batch))

  def body(total: Any, part: Any) -> tuple[Any, None]:
    number, batch = part
    out = gradient(batch, jax.random.fold_in(rng, number))
    return jax.tree.map(jnp.add, total, out), None

  shapes = jax.eval_shape(gradient, jax.tree.map(lambda x: x[0], parts), rng)
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  total, _ = jax.lax.scan(body, zeros, (jnp.arange(count), parts))
  grads, metrics, sums = total
  mean = lambda x: x / count
  return jax.tree.map(mean, grads), jax.tree.map(mean, metrics), sums


def _scalars(program: Program, metrics: Mapping[str, Any]) -> Metrics:
  bad = {n: jnp.shape(x) for n, x in metrics.items() if jnp.shape(x) != ()}
  if bad:
    raise UserError(
      f'Program {program.name!r} returned metrics that are not scalars: {bad}. '
      'Take their mean over the batch.'
    )
  return {n: jnp.asarray(x, jnp.float32) for n, x in metrics.items()}


def _check_commit(program: Program, before: Any, after: Any) -> None:
  def rows(x: Any) -> dict[str, tuple[Any, Any]]:
    return {n: (v.shape, v.dtype) for n, v in tree.named(x).items()}

  if rows(before) != rows(after):
    differences = '; '.join(_differences(before, after))
    raise UserError(
      f'commit, after program {program.name!r}, changed the shape, dtype or '
      f'name of variables: {differences}. Return the same structure.'
    )


def _kept(freeze: str, before: Any, after: Any) -> Any:
  """`after`, where what `freeze` names is as it was before.

  Names are those inside a collection: a frozen codebook is one wherever it
  lives.
  """
  rules = [(freeze, True)]
  frozen = lambda name: tree.first_match(rules, name.partition('/')[2], False)
  return tree.map_named(
    lambda name, old, new: old if frozen(name) else new, before, after
  )


def _changed(before: Any, after: Any) -> list[jax.Array]:
  """The floating-point leaves that a commit replaced."""
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  return [
    b for a, b in pairs if a is not b and jnp.issubdtype(b.dtype, jnp.floating)
  ]


def _averaged(
  ema: Any,
  params: Any,
  members: Collection[str],
  decay: float | None,
  step: jax.Array,
) -> Any:
  if decay is None:
    return ema
  keep = optim.ema_decay(decay, step)
  new = jax.tree.map(
    lambda old, x: old + (1 - keep) * (x - old),
    tree.select(ema, members),
    tree.select(params, members),
  )
  return tree.merge(ema, new)


def _where_finite(metrics: Metrics, new: Any, old: Any) -> Any:
  finite = jnp.isfinite(jnp.stack(list(metrics.values()))).all()
  return jax.tree.map(
    lambda a, b: a if a is b else jnp.where(finite, a, b), new, old
  )
