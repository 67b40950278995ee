"""Solving a flow from noise to data: one scan over the steps.

Dimension letters: B batch, T steps; the rest are features of a sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from tokpress_jax.errors import UserError
from tokpress_jax.flow import guidance as guidance_lib

Array = jax.Array

Rule = Literal['plain', 'projected']
Method = Literal['euler', 'heun']


@struct.dataclass(kw_only=True)
class FlowSampler:
  """How a flow is solved; a pytree whose numbers may be traced.

  Attributes:
    steps: T, static.
    guidance: scale of the guidance, 1 for none; None does not even ask the
      network without its condition, which is half the cost.
    rule: 'plain' or 'projected', see `flow.guidance`.
    interval: the times [from, to] between which there is guidance (Kynkäänniemi
      et al., "Applying Guidance in a Limited Interval", arXiv 2404.07724);
      static.
    momentum: of projected guidance.
    threshold: of projected guidance.
    eta: of projected guidance.
    method: 'euler', or 'heun': two calls of the network a step, second order.
    shift: s of the times s u / (1 + (s - 1) u), u evenly from 1 to 0: above 1
      there are more steps near the noise (2403.03206, section 5.3.2).
  """

  steps: int = struct.field(pytree_node=False, default=25)
  guidance: float | Array | None = None
  rule: Rule = struct.field(pytree_node=False, default='plain')
  interval: tuple[float, float] = struct.field(
    pytree_node=False, default=(0.0, 1.0)
  )
  momentum: float = struct.field(pytree_node=False, default=-0.5)
  threshold: float = struct.field(pytree_node=False, default=2.5)
  eta: float = struct.field(pytree_node=False, default=0.0)
  method: Method = struct.field(pytree_node=False, default='euler')
  shift: float = struct.field(pytree_node=False, default=1.0)

  def __post_init__(self):
    if self.steps < 1:
      raise UserError(f'a flow is solved in 1 step or more, got {self.steps}')
    if self.rule not in ('plain', 'projected'):
      raise UserError(f"rule is 'plain' or 'projected', got {self.rule!r}")
    if self.method not in ('euler', 'heun'):
      raise UserError(f"method is 'euler' or 'heun', got {self.method!r}")
    if not self.shift > 0:
      raise UserError(f'shift must be above 0, got {self.shift}')

  @property
  def times(self) -> np.ndarray:
    """float64 [T + 1], from 1 to 0."""
    even = np.arange(self.steps, -1, -1) / self.steps
    return self.shift * even / (1 + (self.shift - 1) * even)


def sample(
  sampler: FlowSampler, predict: Callable[[Array, Array], Array], noise: Array
) -> Array:
  """Follows the velocity from noise to data.

  Args:
    sampler: how.
    predict: (x [B, ...], time []) -> velocity [B, ...]. Under guidance the rows
      are twice as many, and the second half is to be predicted without the
      condition.
    noise: standard normal [B, ...].

  Returns:
    float32 [B, ...].
  """
  guided = sampler.guidance is not None

  def velocity(x: Array, t: Array, average: Array) -> tuple[Array, Array]:
    if not guided:
      return predict(x, t).astype(jnp.float32), average
    both = predict(jnp.concatenate([x, x]), t).astype(jnp.float32)
    own, none = jnp.split(both, 2)
    low, high = sampler.interval
    inside = (t >= low) & (t <= high)
    scale = jnp.where(inside, jnp.asarray(sampler.guidance, jnp.float32), 1.0)
    if sampler.rule == 'plain':
      return guidance_lib.plain_guidance(own, none, scale), average
    return guidance_lib.projected_guidance(
      own,
      none,
      scale,
      average,
      momentum=sampler.momentum,
      threshold=sampler.threshold,
      eta=sampler.eta,
    )

  def step(
    carry: tuple[Array, Array], xs: tuple[Array, ...]
  ) -> tuple[tuple[Array, Array], None]:
    x, average = carry
    t, after, length = xs
    slope, average = velocity(x, t, average)
    if sampler.method == 'heun':
      second, average = velocity(x - length * slope, after, average)
      slope = (slope + second) / 2
    return (x - length * slope, average), None

  times = sampler.times
  xs = tuple(
    jnp.asarray(x, jnp.float32)
    for x in (times[:-1], times[1:], times[:-1] - times[1:])
  )
  x = noise.astype(jnp.float32)
  # Only projected guidance has a state.
  projected = guided and sampler.rule == 'projected'
  average = jnp.zeros_like(x) if projected else jnp.zeros(())
  (x, _), _ = jax.lax.scan(step, (x, average), xs)
  return x
