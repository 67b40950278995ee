"""The optimiser of a program, from the configuration.

One chain for all: clip the gradient's norm, optimiser, decoupled weight decay
(Loshchilov & Hutter 2019, arXiv:1711.05101), multipliers by name, learning
rate. Its state has the same structure whatever the schedule, so that a run may
be resumed with another one.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from tokpress_jax.errors import UserError
from tokpress_jax.train import tree
from tokpress_jax.train.config import OptimConfig
from tokpress_jax.train.task import FROZEN, Program

Schedule = Callable[[Any], jax.Array]

_RULES: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
  'adamw': lambda c: optax.scale_by_adam(c.b1, c.b2, c.eps),
  'lion': lambda c: optax.scale_by_lion(c.b1, c.b2),
  'sgd': lambda c: optax.trace(c.b1),
}
_OVERRIDABLE = (
  'learning_rate',
  'warmup_steps',
  'warmup_scale',
  'hold',
  'final_scale',
  'b1',
  'b2',
  'eps',
  'weight_decay',
  'weight_decay_end',
  'clip_norm',
)


def assign_groups(
  names: Collection[str],
  groups: Sequence[tuple[str, str]],
  programs: Sequence[Program],
  *,
  freeze: str | None = None,
) -> dict[str, str]:
  """Gives every parameter to a group; every group must be trained or frozen.

  Args:
    names: The parameters' names.
    groups: Ordered `(regex, group)` pairs; the first match decides.
    programs: The programs that train groups.
    freeze: Regex of the parameters that go to the group `frozen` instead.

  Returns:
    Name -> group.

  Raises:
    UserError: If a parameter is in no group or in one that nothing trains, or
      a program's group is empty.
  """
  if freeze is not None:
    tree.check_patterns('train.freeze', [freeze], names)
    groups = ((freeze, FROZEN), *groups)
  found = {name: tree.first_match(groups, name) for name in names}
  trained = {p.group for p in programs}
  lost = [n for n, g in found.items() if g not in trained | {FROZEN}]
  if lost:
    raise UserError(
      f'{len(lost)} parameter(s) are in no group that a program trains '
      f'({", ".join(sorted(trained))}), nor in {FROZEN!r}: '
      + ', '.join(f'{n} (group {found[n]})' for n in lost[:10])
      + ". Extend the task's groups, or freeze them with train.freeze."
    )
  for program in programs:
    if program.group not in found.values():
      raise UserError(
        f'Program {program.name!r} trains the group {program.group!r}, which '
        f'holds no parameter. Groups with parameters: '
        f'{sorted(set(found.values()))}.'
      )
  return found


def check(
  config: OptimConfig, names: Collection[str], groups: Collection[str]
) -> None:
  """Raises `UserError` if a pattern or a group of the config matches nothing.

  Args:
    config: The configuration.
    names: The names of all parameters.
    groups: The groups that programs train.
  """
  patterns = [pattern for pattern, _ in config.multipliers]
  tree.check_patterns('optim.multipliers', patterns, names)
  if config.weight_decay or config.weight_decay_end:
    tree.check_patterns('optim.decay_mask', [config.decay_mask], names)
  for group, field, _ in config.groups:
    if group not in groups or field not in _OVERRIDABLE:
      raise UserError(
        f'optim.groups overrides {field!r} of the group {group!r}; the groups '
        f'are {", ".join(sorted(groups))}, the fields '
        f'{", ".join(_OVERRIDABLE)}.'
      )


def group_config(config: OptimConfig, group: str) -> OptimConfig:
  """Returns the configuration with the overrides of one group applied."""
  own: dict[str, Any] = {
    field: value for g, field, value in config.groups if g == group
  }
  return dataclasses.replace(config, **own)


def make_schedule(config: OptimConfig, steps: int) -> Schedule:
  """Returns the learning rate as a function of the number of updates so far.

  Without `warmup_scale` the warm-up's first update already has 1 / warmup_steps
  of the peak. A run shorter than its warm-up and decay warms up to its last
  step but one.

  Args:
    config: The configuration of one group.
    steps: Updates of the whole run, where a decay without `decay_steps` ends.
  """
  warmup, end = config.warmup_steps, config.decay_steps
  decays = config.schedule != 'constant'
  if end is None:
    end = steps
    if decays:
      warmup = min(warmup, max(steps - 1, 0))
  if decays and end <= warmup:
    raise UserError(
      f'optim.warmup_steps is {warmup} and the decay ends at step {end}; '
      'expected fewer warm-up steps. Lower --optim.warmup-steps or raise '
      '--optim.decay-steps.'
    )

  def ramp(count: jax.Array) -> jax.Array:
    first = config.warmup_scale
    if first is None:
      return (count + 1) / max(warmup, 1)
    return first + (1 - first) * count / warmup if warmup else 1 + count

  def schedule(count: Any) -> jax.Array:
    count = jnp.asarray(count, jnp.float32)
    rate = config.learning_rate * jnp.minimum(1.0, ramp(count))
    if config.schedule == 'warmup-cosine':
      t = jnp.clip((count - warmup) / (end - warmup), 0.0, 1.0)
      fall = 0.5 * (1 + jnp.cos(jnp.pi * t))
      rate *= config.final_scale + (1 - config.final_scale) * fall
    elif config.schedule == 'warmup-hold-linear':
      # The last update has `final_scale`; a cosine would have it one later.
      t = jnp.clip((count - warmup) / max(end - 1 - warmup, 1), 0.0, 1.0)
      fall = jnp.minimum(1.0, (1 - t) / (1 - config.hold))
      rate *= config.final_scale + (1 - config.final_scale) * fall
    return rate

  return schedule


def make_optimizer(
  config: OptimConfig,
  schedule: Schedule,
  params: Mapping[str, Any],
  *,
  steps: int,
) -> optax.GradientTransformation:
  """Returns the chain for the parameters of one group.

  Args:
    config: The configuration of this group.
    schedule: Its learning rate.
    params: Its parameters, or their shapes.
    steps: Updates of the whole run.
  """
  factors = tree.map_named(
    lambda name, _: tree.first_match(config.multipliers, name, 1.0), params
  )
  decayed = tree.map_named(
    lambda name, _: tree.first_match([(config.decay_mask, True)], name, False),
    params,
  )
  clip = config.clip_norm
  return optax.chain(
    optax.identity() if clip is None else optax.clip_by_global_norm(clip),
    _RULES[config.name](config),
    optax.add_decayed_weights(_weight_decay(config, steps), mask=decayed),
    optax.stateless(
      lambda updates, _: jax.tree.map(lambda u, f: u * f, updates, factors)
    ),
    optax.scale_by_learning_rate(schedule),
  )


def _weight_decay(config: OptimConfig, steps: int) -> float | Schedule:
  """The weight decay, as a function of the number of updates if it moves."""
  first, last = config.weight_decay, config.weight_decay_end
  if last is None:
    return first

  def schedule(count: Any) -> jax.Array:
    t = jnp.minimum(jnp.asarray(count, jnp.float32) / max(steps - 1, 1), 1.0)
    return last + (first - last) * 0.5 * (1 + jnp.cos(jnp.pi * t))

  return schedule


def ema_decay(decay: float, step: Any) -> jax.Array:
  """Decay of averaged parameters: small at first, `decay` in the end."""
  step = jnp.asarray(step, jnp.float32)
  return jnp.minimum(decay, (1 + step) / (10 + step))
