"""The state of a run: all that a checkpoint holds, and nothing else.

Randomness and the place in the data are functions of the seed and the step, so
they are not stored.
"""

from collections.abc import Collection, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from tokpress_jax.train import tree
from tokpress_jax.train.task import Variables


@flax.struct.dataclass
class TrainState:
  """What changes while training.

  Attributes:
    step: Number of finished steps, int32 scalar.
    variables: Linen's collections: `params`, codebooks, `frozen`.
    opt_state: Program name -> state of its optimiser.
    ema: Averaged parameters, nested like `params` and without the frozen ones;
      empty if the run keeps no average.
  """

  step: jax.Array
  variables: Variables
  opt_state: dict[str, Any]
  ema: dict[str, Any]


def averaged(variables: Variables, ema: Mapping[str, Any]) -> Variables:
  """Returns the variables to evaluate and to export: EMA where there is one."""
  if not ema:
    return variables
  return {**variables, 'params': tree.merge(variables['params'], ema)}


def create(
  variables: Variables,
  optimizers: Mapping[str, optax.GradientTransformation],
  members: Mapping[str, Collection[str]],
  *,
  ema: bool,
) -> TrainState:
  """Builds the state of step 0. Traceable.

  Args:
    variables: The initial variables.
    optimizers: Program name -> its optimiser.
    members: Program name -> names of the parameters it trains.
    ema: Whether to keep averaged parameters.
  """
  params = variables['params']
  trained = set().union(*members.values())
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    variables=variables,
    opt_state={
      name: optimizer.init(tree.select(params, members[name]))
      for name, optimizer in optimizers.items()
    },
    ema=jax.tree.map(jnp.copy, tree.select(params, trained)) if ema else {},
  )


def state_shardings(
  abstract: TrainState,
  shardings: Any,
  optimizers: Mapping[str, optax.GradientTransformation],
  members: Mapping[str, Collection[str]],
  replicated: Any,
) -> TrainState:
  """Returns the shardings of a state: moments and averages as parameters.

  Args:
    abstract: The state's shapes.
    shardings: The shardings of `abstract.variables`.
    optimizers: As in `create`.
    members: As in `create`.
    replicated: The sharding of everything else (counts).
  """
  params = shardings['params']
  opt = {
    name: optax.tree_utils.tree_map_params(
      optimizer.init,
      lambda _, sharding: sharding,
      abstract.opt_state[name],
      tree.select(params, members[name]),
      transform_non_params=lambda _: replicated,
    )
    for name, optimizer in optimizers.items()
  }
  return TrainState(
    step=replicated,
    variables=shardings,
    opt_state=opt,
    ema=tree.select(params, tree.named(abstract.ema)),
  )
