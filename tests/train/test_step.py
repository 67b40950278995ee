import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys

from tokpress_jax.errors import UserError
from tokpress_jax.train import tree
from tokpress_jax.train.job import prepare
from tokpress_jax.train.step import compile_program


def job_of(config, devices=1, data=toys.DATA):
  return prepare(config, devices=jax.devices()[:devices], data=data)


def run(config, *, devices=1, steps=3, data=toys.DATA):
  """Runs a one-program task; returns the last state and all metrics."""
  job = job_of(config, devices, data)
  with jax.set_mesh(job.mesh):
    state, batches, found = job.init(), job.stream.batches(0), []
    compiled = None
    for step in range(steps):
      batch = job.put(next(batches))
      compiled = compiled or compile_program(job, 0, batch)
      state, metrics = compiled(state, batch, np.int32(step))
      found.append(jax.device_get(metrics))
  assert compiled.compilations == 1
  return jax.device_get(state), found


def close(a, b, **tolerance):
  tree.map_named(
    lambda name, x, y: np.testing.assert_allclose(
      x, y, err_msg=name, **tolerance
    ),
    a,
    b,
  )


BASE = toys.config(
  ema_decay=0.9, optim={'weight_decay': 0.1, 'learning_rate': 0.01}
)


@pytest.fixture(scope='module')
def single():
  return run(BASE)


@pytest.mark.parametrize(
  'mesh', [{}, {'fsdp': 4, 'data': 2}, {'fsdp': 2, 'model': 2}]
)
def test_eight_devices_equal_one(single, mesh):
  mesh = toys.MeshConfig(fsdp_min_size=8, **mesh)
  state, metrics = run(dataclasses.replace(BASE, mesh=mesh), devices=8)
  close(state, single[0], rtol=1e-5, atol=1e-6)
  close(metrics, single[1], rtol=1e-5, atol=1e-6)


def test_moments_and_averages_lie_where_their_parameters_do():
  mesh = toys.MeshConfig(fsdp=4, model=2, fsdp_min_size=8)
  job = job_of(dataclasses.replace(BASE, mesh=mesh), 8)
  placed = tree.named(job.shardings)
  specs = {
    name: sharding.spec
    for name, sharding in placed.items()
    if name.endswith('encoder/kernel')
  }
  assert len(specs) == 4  # parameter, two moments, average
  assert set(specs.values()) == {jax.sharding.PartitionSpec(None, 'model')}


def test_microbatches_equal_the_whole_batch(single):
  task = toys.Regression(noise=0.0)
  whole, a = run(dataclasses.replace(BASE, task=task))
  train = dataclasses.replace(BASE.train, accumulate=4)
  parts, b = run(dataclasses.replace(BASE, task=task, train=train))
  close(parts, whole, rtol=1e-5, atol=1e-6)
  close(a, b, rtol=1e-5, atol=1e-6)
  assert whole.variables['codebook']['seen'] == 24


def test_an_oracle_in_numpy():
  """Loss, average and codebook of two steps, without any of our code."""
  config = toys.config(
    toys.Regression(noise=0.0),
    ema_decay=0.9,
    optim={
      'name': 'sgd',
      'b1': 0.0,
      'schedule': 'constant',
      'learning_rate': 0.1,
      'clip_norm': None,
    },
  )
  job = job_of(config)
  with jax.set_mesh(job.mesh):
    p = jax.tree.map(np.array, job.init().variables['params'])
  state, metrics = run(config, steps=2)
  ema = jax.tree.map(np.copy, p)
  mean = np.zeros(4)
  batches = toys.Stream(None, batch_size=8, seed=0).batches()
  for t in range(2):
    image = next(batches)['image']
    x, target = image.reshape(8, -1), image[:, 0, :, 0] + 0.5
    h = np.tanh(x @ p['encoder']['kernel'] + p['encoder']['bias'])
    d = h @ p['decoder']['kernel'] - target
    np.testing.assert_allclose(metrics[t]['loss'], (d**2).mean(), rtol=1e-5)
    g = 2 * d / d.size
    gh = (g @ p['decoder']['kernel'].T) * (1 - h**2)
    p['decoder']['kernel'] -= 0.1 * h.T @ g
    p['encoder']['kernel'] -= 0.1 * x.T @ gh
    p['encoder']['bias'] -= 0.1 * gh.sum(0)
    keep = min(0.9, (1 + t) / (10 + t))
    ema = jax.tree.map(lambda e, q, k=keep: k * e + (1 - k) * q, ema, p)
    mean = 0.9 * mean + 0.1 * target.mean(0)
  close(state.variables['params'], p, rtol=1e-5, atol=1e-6)
  close(state.ema, ema, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(
    state.variables['codebook']['mean'], mean, rtol=1e-5
  )


def test_nan_leaves_the_state_unchanged():
  good, _ = run(BASE, steps=2)
  state, metrics = run(BASE, steps=3, data=toys.data(poison=2))
  assert np.isnan(metrics[2]['loss'])
  close(state, good, rtol=0, atol=0)


def test_bfloat16_reaches_the_task_only(single):
  train = dataclasses.replace(BASE.train, precision='bfloat16')
  state, metrics = run(dataclasses.replace(BASE, train=train))
  assert {x.dtype.name for x in jax.tree.leaves(state.variables)} == {'float32'}
  assert metrics[-1]['loss'] == pytest.approx(single[1][-1]['loss'], rel=0.02)
  assert metrics[-1]['loss'] != single[1][-1]['loss']
  task = toys.Regression(precision='bfloat16')
  with pytest.raises(UserError, match=r'Set train\.precision only'):
    job_of(dataclasses.replace(BASE, task=task))


def test_frozen_parameters_get_no_optimiser():
  train = dataclasses.replace(BASE.train, freeze='encoder')
  config = dataclasses.replace(BASE, train=train)
  job = job_of(config)
  with jax.set_mesh(job.mesh):
    before = jax.device_get(job.init())
  after, _ = run(config)
  close(
    after.variables['params']['encoder'],
    before.variables['params']['encoder'],
    rtol=0,
    atol=0,
  )
  assert (
    after.variables['params']['decoder']['kernel']
    != before.variables['params']['decoder']['kernel']
  ).any()
  assert not any(
    'encoder' in name for name in tree.named((after.opt_state, after.ema))
  )


def test_a_batch_of_another_shape_is_an_error_not_a_compilation():
  job = job_of(BASE)
  with jax.set_mesh(job.mesh):
    state, batch = job.init(), job.put(next(job.stream.batches(0)))
    compiled = compile_program(job, 0, batch)
    small = {name: x[:4] for name, x in batch.items()}
    with pytest.raises(UserError, match=r'image expected .*8, 4, 4, 1.*given'):
      compiled(state, small, np.int32(0))
  assert compiled.compilations == 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Careless(toys.Regression):
  fault: str = ''

  def loss(self, variables, batch, rng, step):
    loss, metrics, updates = super().loss(variables, batch, rng, step)
    if self.fault == 'metric':
      metrics = {'per_example': batch['image'][:, 0, 0, 0]}
    return loss, metrics, updates

  def commit(self, variables, updates, rng, step):
    book = {**variables['codebook'], 'seen': jnp.zeros((2,))}
    return {**variables, 'codebook': book}


@pytest.mark.parametrize(
  'fault, words',
  [('metric', 'per_example'), ('commit', r'codebook/seen expected')],
)
def test_a_careless_task_is_told(fault, words):
  config = toys.config(Careless(fault=fault))
  with pytest.raises(UserError, match=words):
    run(config, steps=1)


def test_the_state_is_updated_in_place():
  job = job_of(BASE)
  batch = job.put(next(job.stream.batches(0)))
  with jax.set_mesh(job.mesh):
    memory = compile_program(job, 0, batch).memory
  state = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(job.abstract))
  assert memory.alias_size_in_bytes == state


def test_init_does_not_depend_on_the_mesh():
  states = []
  for devices, mesh in [(1, {}), (8, {'fsdp': 4, 'fsdp_min_size': 8})]:
    job = job_of(
      dataclasses.replace(BASE, mesh=toys.MeshConfig(**mesh)), devices
    )
    with jax.set_mesh(job.mesh):
      states.append(jax.device_get(job.init()))
  close(*states, rtol=0, atol=0)
