"""What a training job is: the one class that a new method writes.

A task gives initial variables, one or more *programs* (a loss for one group of
parameters) and an evaluation. The trainer builds everything else: sharding,
accumulation, clipping, schedules, averages, guards, checkpoints. A GAN is two
programs; a codebook kept by moving averages is one program with `updates`.

Variables are Linen's dictionary of collections. Only leaves of
`variables['params']` are optimised; `variables['frozen']` holds what
`Task.constants` loaded; any other collection (codebooks, usage) changes only
through `Task.commit`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
  from tokpress_jax.data import DatasetInfo
  from tokpress_jax.types import Loaded

Variables = Mapping[str, Any]
Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
Loss = Callable[
  [Variables, Batch, jax.Array, jax.Array], tuple[jax.Array, Metrics, Any]
]

FROZEN = 'frozen'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
  """One loss, minimised over one group of parameters.

  Attributes:
    name: Names the optimiser state and, where a task has several programs, the
      metrics.
    loss: `loss(variables, batch, rng, step) -> (loss, metrics, updates)`. The
      loss and the metrics are scalars, means over the examples of the batch;
      `updates` is a pytree of *sums* over examples (`{}` if there are none).
    group: The group of parameters that this program changes.
    active_from: First step at which it runs.
    every: It runs at steps `active_from + i * every`.
    runs: So many steps in a row each time.
    optimizer: Name of an earlier program whose optimiser it goes on with, where
      several take turns at the same parameters; its own by default.
  """

  name: str
  loss: Loss
  group: str = 'main'
  active_from: int = 0
  every: int = 1
  runs: int = 1
  optimizer: str = ''

  def __post_init__(self):
    if self.active_from < 0 or not 1 <= self.runs <= self.every:
      raise ValueError(
        f'program {self.name!r} has active_from={self.active_from}, '
        f'every={self.every} and runs={self.runs}; expected active_from >= 0 '
        'and 1 <= runs <= every.'
      )

  @property
  def owner(self) -> str:
    """Names the optimiser that it uses."""
    return self.optimizer or self.name

  def active(self, step: int) -> bool:
    """Whether the program runs at this step (counted from 0)."""
    since = step - self.active_from
    return since >= 0 and since % self.every < self.runs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Base of all tasks; its dataclass fields are its configuration.

  Attributes:
    groups: Ordered `(regex, group)` pairs over parameter names such as
      `encoder/block/mlp/kernel`; the first match decides. Parameters of the
      group `frozen` get no optimiser.
    sharding_rules: Ordered `(regex, axes)` pairs over variable names such as
      `params/encoder/block/mlp/kernel`, where `axes` has one entry per array
      dimension: a mesh axis, a tuple of them, or None. What no rule matches
      falls back to the FSDP rule.
    precision: Dtype inside matmuls. Set `train.precision`; the trainer copies
      it here.
  """

  groups: ClassVar[tuple[tuple[str, str], ...]] = (('', 'main'),)
  sharding_rules: ClassVar[tuple[tuple[str, tuple[Any, ...]], ...]] = ()

  precision: Literal['float32', 'bfloat16'] = 'float32'

  @property
  def dtype(self) -> Any:
    """The dtype to build modules with; parameters stay float32."""
    return jnp.dtype(self.precision)

  def bind(self, info: DatasetInfo) -> Task:
    """Returns the task with what the data set decides filled in.

    Args:
      info: Image size, channels, number of classes of the data set.

    Raises:
      ValueError: If the model cannot take such images.
    """
    del info
    return self

  def constants(self) -> Any:
    """Loads inputs that never change (a tokenizer's variables), or `{}`.

    Called once per run, outside jit. The result is a pytree of arrays that
    losses find in `variables['frozen']`.
    """
    return {}

  def start(self) -> Any:
    """Loads values that a new run starts from in place of drawn ones, or `{}`.

    Called once, outside jit. The result is nested as the variables are and
    holds any of their leaves; `train.init_from` is read after it.
    """
    return {}

  def init(self, rng: jax.Array) -> Variables:
    """Returns the initial variables. Traced: shapes first, then sharded.

    Args:
      rng: A typed PRNG key.
    """
    raise NotImplementedError

  def programs(self) -> tuple[Program, ...]:
    """Returns the programs, in the order in which a step runs them.

    At least one must be active at every step.
    """
    raise NotImplementedError

  def evaluate(
    self, variables: Variables, batch: Batch, rng: jax.Array
  ) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Measures one evaluation batch.

    Args:
      variables: The variables, with averaged parameters if the run keeps them.
      batch: `batch['valid']` `[B]` is False on the padding of the last batch.
      rng: A typed PRNG key that depends on the batch's number only.

    Returns:
      Name -> (sum over valid examples, sum of their weights); the trainer adds
      both over batches and reports the quotient.
    """
    raise NotImplementedError

  def commit(
    self, variables: Variables, updates: Any, rng: jax.Array, step: jax.Array
  ) -> Variables:
    """Applies `updates`, after the optimiser, once per step of its program.

    Args:
      variables: The variables after the optimiser's update.
      updates: The sums of the program's `updates` over all microbatches and
        devices.
      rng: A typed PRNG key.
      step: The step, counted from 0, int32.

    Returns:
      Variables of the same structure, shapes and dtypes.
    """
    raise NotImplementedError(
      f'{type(self).__name__} has a program that returns updates, so it must '
      'define commit(variables, updates, rng, step).'
    )

  def export(self, variables: Variables) -> Loaded:
    """Returns the trained model, for `tokpress_jax.io.export` and `load`.

    Args:
      variables: The run's variables on the host, averaged where the run keeps
        averages, with `frozen`.

    Returns:
      The module and its own variables; a generator with its tokenizer.
    """
    raise NotImplementedError(
      f'{type(self).__name__} does not define export(variables), so its runs '
      'cannot be exported or loaded.'
    )
