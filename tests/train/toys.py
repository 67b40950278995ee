"""Tiny tasks and data: a regression and a two-program game."""

import dataclasses
import functools
import math
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import registry
from tokpress_jax.config import Config
from tokpress_jax.train.config import MeshConfig, OptimConfig, TrainConfig
from tokpress_jax.train.task import Program, Task

SIZE = 4
RECORDS = 22


def record(index: int) -> dict[str, np.ndarray]:
  rng = np.random.default_rng(index)
  image = rng.normal(size=(SIZE, SIZE, 1)).astype(np.float32)
  return {
    'image': image,
    'label': np.int32(index % 3),
    'index': np.int64(index),
    'valid': np.bool_(True),
  }


def stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
  return {k: np.stack([row[k] for row in rows]) for k in rows[0]}


class Stream:
  def __init__(
    self,
    config,
    *,
    batch_size,
    seed,
    process_index=0,
    process_count=1,
    poison=-1,
  ):
    self.info = types.SimpleNamespace(image_size=SIZE, channels=1)
    self._poison, self._seed = poison, seed
    self._batch, self._local = batch_size, batch_size // process_count
    self._first = process_index * self._local

  def batches(self, start_step=0):
    step = start_step
    while True:
      rng = np.random.default_rng([self._seed, step])
      rows = rng.integers(RECORDS, size=self._batch)
      rows = rows[self._first : self._first + self._local]
      batch = stack([record(i) for i in rows])
      if step == self._poison:
        batch['image'] = np.full_like(batch['image'], np.nan)
      yield batch
      step += 1


def eval_batches(
  config, *, split, batch_size, process_index=0, process_count=1
):
  local = batch_size // process_count
  for number in range(math.ceil(RECORDS / batch_size)):
    first = number * batch_size + process_index * local
    rows = []
    for i in range(first, first + local):
      row = record(min(i, RECORDS - 1))
      rows.append({**row, 'valid': np.bool_(i < RECORDS)})
    yield stack(rows)


def data(**options):
  stream = functools.partial(Stream, **options)
  return types.SimpleNamespace(Stream=stream, eval_batches=eval_batches)


DATA = data()


def forward(params: Any, x: jax.Array) -> jax.Array:
  x = x.reshape(x.shape[0], -1)
  hidden = jnp.tanh(
    x @ params['encoder']['kernel'] + params['encoder']['bias'][None]
  )
  return hidden @ params['decoder']['kernel']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
  """Learns the image's first row; counts and averages what it has seen."""

  width: int = 8
  noise: float = 0.01
  features: int = 0

  sharding_rules = (('encoder/kernel', (None, 'model')),)

  def bind(self, info):
    return dataclasses.replace(self, features=info.image_size**2)

  def constants(self):
    return {'offset': np.full((1, SIZE), 0.5, np.float32)}

  def init(self, rng):
    a, b = jax.random.split(rng)
    scale = self.features**-0.5
    return {
      'params': {
        'encoder': {
          'kernel': scale * jax.random.normal(a, (self.features, self.width)),
          'bias': jnp.zeros((self.width,)),
        },
        'decoder': {'kernel': 0.3 * jax.random.normal(b, (self.width, SIZE))},
      },
      'codebook': {'seen': jnp.zeros(()), 'mean': jnp.zeros((SIZE,))},
    }

  def target(self, variables, batch):
    return batch['image'][:, 0, :, 0] + variables['frozen']['offset']

  def loss(self, variables, batch, rng, step):
    x = batch['image'].astype(self.dtype)
    x = x + self.noise * jax.random.normal(rng, (1, 1, 1, 1), x.dtype)
    target = self.target(variables, batch)
    out = forward(variables['params'], x)
    loss = jnp.mean(jnp.square(out - target))
    updates = {
      'seen': jnp.float32(target.shape[0]),
      'total': target.sum(0),
    }
    return loss, {'absolute': jnp.mean(jnp.abs(out - target))}, updates

  def programs(self):
    return (Program(name='fit', loss=self.loss),)

  def commit(self, variables, updates, rng, step):
    book = variables['codebook']
    mean = updates['total'] / updates['seen']
    return {
      **variables,
      'codebook': {
        'seen': book['seen'] + updates['seen'],
        'mean': 0.9 * book['mean'] + 0.1 * mean,
      },
    }

  def evaluate(self, variables, batch, rng):
    weight = batch['valid'].astype(jnp.float32)
    out = forward(variables['params'], batch['image'])
    error = jnp.mean(jnp.square(out - self.target(variables, batch)), -1)
    return {
      'error': ((error * weight).sum(), weight.sum()),
      'count': (weight.sum(), jnp.float32(1)),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Game(Task):
  """Two players and a spectator that nothing trains."""

  groups = (
    ('^player', 'player'),
    ('^judge', 'judge'),
    ('spectator', 'frozen'),
  )

  def init(self, rng):
    return {
      'params': {
        'player': {'kernel': jax.random.normal(rng, (4, 4))},
        'judge': {'kernel': jnp.ones((4, 4))},
        'spectator': {'kernel': jnp.ones((2,))},
      }
    }

  def programs(self):
    def play(variables, batch, rng, step):
      p = variables['params']
      loss = jnp.mean(jnp.square(p['player']['kernel'] - p['judge']['kernel']))
      return loss, {}, {}

    def judge(variables, batch, rng, step):
      p = variables['params']
      loss = -jnp.mean(p['player']['kernel'] * p['judge']['kernel'])
      return loss, {'step': step.astype(jnp.float32)}, {}

    return (
      Program(name='play', group='player', loss=play),
      Program(name='judge', group='judge', loss=judge, active_from=3, every=2),
    )

  def evaluate(self, variables, batch, rng):
    return {'ones': (batch['valid'].sum(), batch['valid'].sum())}


registry.register('toy_regression', Regression, family='task')
registry.register('toy_game', Game, family='task')


def config(task=None, *, optim=None, mesh=None, **train):
  train = {'steps': 12, 'batch_size': 8, 'log_every': 1, **train}
  return Config(
    name='toy',
    task=Regression() if task is None else task,
    train=TrainConfig(**train),
    optim=OptimConfig(**(optim or {})),
    mesh=MeshConfig(**(mesh or {})),
  )


def noise(info):
  """A data module of uint8 images of noise, as large as `info` says.

  The images of a step depend on the seed and the step alone.
  """

  class Noise:
    def __init__(self, config, *, batch_size, seed, **shares):
      del config, shares
      self.info, self._batch, self._seed = info, batch_size, seed

    def batches(self, start_step=0):
      step = start_step
      shape = (self._batch, info.image_size, info.image_size, info.channels)
      while True:
        rng = np.random.default_rng([self._seed, step])
        image = rng.integers(0, 256, shape, dtype=np.uint8)
        yield {'image': image, 'index': np.arange(self._batch)}
        step += 1

  def eval_batches(config, *, split, batch_size, **shares):
    del config, split, shares
    batch = next(Noise(None, batch_size=batch_size, seed=7).batches())
    yield {**batch, 'valid': np.ones(batch_size, bool)}

  return types.SimpleNamespace(Stream=Noise, eval_batches=eval_batches)
