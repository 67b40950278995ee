"""A task that trains in a second: one linear map per image."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from tokpress_jax import registry
from tokpress_jax.io.images import to_float
from tokpress_jax.train.task import Program, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyTask(Task):
  """Rebuilds images through a bottleneck.

  Attributes:
    width: Of the bottleneck.
  """

  width: int = 2

  def _module(self):
    return nn.Sequential([nn.Dense(self.width), nn.Dense(64)])

  def init(self, rng):
    return self._module().init(rng, jnp.zeros((1, 64)))

  def programs(self):
    def loss(variables, batch, rng, step):
      return self._loss(variables, batch), {}, {}

    return (Program(name='main', loss=loss),)

  def evaluate(self, variables, batch, rng):
    weight = batch['valid'].sum()
    return {'mse': (self._loss(variables, batch) * weight, weight)}

  def _loss(self, variables, batch):
    x = to_float(batch['image']).reshape(-1, 64)
    error = (self._module().apply(variables, x) - x) ** 2
    return jnp.mean(error, axis=1, where=batch['valid'][:, None]).mean()


registry.register('tiny', TinyTask, family='task')
