"""A checkpoint is used only if it is whole."""

import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from tokpress_jax.errors import UserError
from tokpress_jax.train.checkpoint import (
  Checkpoints,
  CorruptCheckpointWarning,
)
from tokpress_jax.train.checksum import checksum


@struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt: tuple


def make_state(step):
  key = jax.random.fold_in(jax.random.key(0), step)
  return State(
    step=jnp.asarray(step),
    params={
      'a': {'kernel': jax.random.normal(key, (64, 128))},
      'b': jax.random.normal(key, (16,), jnp.bfloat16),
      'flag': jnp.array([True, False, True]),
      'empty': {},
    },
    opt=({'mu': jnp.zeros((4, 0))}, jnp.arange(7, dtype=jnp.int32)),
  )


def abstract(state, sharding=None):
  one = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state
  )


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def data_files(step_dir):
  files = [p for p in (step_dir / 'state').rglob('*') if p.is_file()]
  return sorted(files, key=lambda p: p.stat().st_size)


@pytest.fixture
def run(tmp_path):
  with Checkpoints(tmp_path / 'checkpoints', keep=3) as checkpoints:
    for step in (1, 2):
      checkpoints.save(step, make_state(step), {'config': {'seed': step}})
    checkpoints.wait()
    yield checkpoints, tmp_path / 'checkpoints'


def test_round_trip_keeps_the_newest(run):
  checkpoints, _ = run
  for step in (3, 4):
    assert checkpoints.save(step, make_state(step))
  assert not checkpoints.save(4, make_state(4))
  checkpoints.wait()
  assert checkpoints.steps() == [2, 3, 4]
  step, state, _ = checkpoints.restore(abstract(make_state(0)))
  assert step == 4
  assert_equal(state, make_state(4))


def test_meta_comes_back(run):
  checkpoints, _ = run
  assert checkpoints.restore(abstract(make_state(0))).meta == {
    'config': {'seed': 2}
  }


def test_nothing_saved(tmp_path):
  with Checkpoints(tmp_path / 'new') as checkpoints:
    assert checkpoints.restore(abstract(make_state(0))) is None


def flip(step_dir):
  path = data_files(step_dir)[-1]
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 16
  path.write_bytes(data)


def truncate(step_dir):
  path = data_files(step_dir)[-1]
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(step_dir):
  shutil.rmtree(step_dir)
  step_dir.mkdir()


def drop_state(step_dir):
  shutil.rmtree(step_dir / 'state')


def drop_meta(step_dir):
  shutil.rmtree(step_dir / 'meta')


def change_meta(step_dir):
  path = step_dir / 'meta' / 'metadata'
  path.write_text(path.read_text().replace('"seed": 2', '"seed": 3'))


@pytest.mark.parametrize(
  'damage', [flip, truncate, empty, drop_state, drop_meta, change_meta]
)
def test_damage_falls_back_one_step(run, damage):
  checkpoints, directory = run
  damage(directory / '2')
  with pytest.warns(CorruptCheckpointWarning, match='Checkpoint 2 .*step 1'):
    step, state, meta = checkpoints.restore(abstract(make_state(0)))
  assert step == 1 and meta['config']['seed'] == 1
  assert_equal(state, make_state(1))
  assert (directory / '2.corrupt').is_dir()
  # The number can be written again, and is then good.
  assert checkpoints.save(2, make_state(2), wait=True)
  step, state, _ = checkpoints.restore(abstract(make_state(0)))
  assert step == 2
  assert_equal(state, make_state(2))


def test_every_byte_of_the_state_is_covered(run):
  """Flipping any of 40 bytes is either caught or changes nothing."""
  _, directory = run
  path = data_files(directory / '2')[-1]
  good = path.read_bytes()
  caught = 0
  with Checkpoints(directory, read_only=True) as reader:
    for at in np.linspace(0, len(good) - 1, 40).astype(int):
      bad = bytearray(good)
      bad[at] ^= 1
      path.write_bytes(bad)
      with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        step, state, _ = reader.restore(abstract(make_state(0)))
      assert_equal(state, make_state(step))
      caught += bool(seen)
  assert caught > 30
  assert (directory / '2').is_dir()  # A reader moves nothing.


def test_the_leaf_is_named(run):
  """A number that changed although the file is well formed."""
  checkpoints, _ = run
  state = make_state(3)
  original = checkpoints._reader.restore

  def restore(*args, **kwargs):
    leaves = original(*args, **kwargs)
    if int(leaves['step']) == 3:
      kernel = leaves['params/a/kernel']
      leaves['params/a/kernel'] = kernel.at[5, 7].multiply(2)
    return leaves

  checkpoints.save(3, state, wait=True)
  checkpoints._reader.restore = restore
  with pytest.warns(CorruptCheckpointWarning, match='of params/a/kernel'):
    assert checkpoints.restore(abstract(state)).step == 2


def test_all_damaged_is_an_error_not_a_fresh_start(run):
  checkpoints, directory = run
  empty(directory / '1')
  flip(directory / '2')
  with pytest.raises(UserError, match=r'step 2: .*step 1: '):
    checkpoints.restore(abstract(make_state(0)))


def test_another_model_lists_every_wrong_leaf(run):
  checkpoints, _ = run
  other = abstract(make_state(0))
  other.params['a']['bias'] = other.params['a'].pop('kernel')
  other.params['b'] = jax.ShapeDtypeStruct((17,), jnp.bfloat16)
  with pytest.raises(UserError) as error:
    checkpoints.restore(other)
  for part in ('missing   params/a/bias', 'unknown   params/a/kernel', '(17,)'):
    assert part in str(error.value)
  assert checkpoints.steps() == [1, 2]


def test_restore_onto_another_mesh(tmp_path):
  def mesh(*shape):
    return jax.make_mesh(
      shape, ('data', 'fsdp'), axis_types=(AxisType.Auto,) * 2,
      devices=jax.devices()[: int(np.prod(shape))],
    )  # fmt: skip

  host = {'w': np.random.default_rng(0).normal(size=(16, 8)).astype('float32')}
  big = NamedSharding(mesh(2, 4), P('data', 'fsdp'))
  with Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(1, jax.device_put(host, big), wait=True)
    for shape, spec in (((1, 2), P(None, 'fsdp')), ((4, 2), P('fsdp'))):
      target = NamedSharding(mesh(*shape), spec)
      _, state, _ = checkpoints.restore(abstract(host, target))
      assert state['w'].sharding == target
      assert_equal(state, host)


def test_load_reads_a_part_without_the_model(run):
  _, directory = run
  with Checkpoints(directory, read_only=True) as reader:
    step, tree, _ = reader.load('params')
    assert step == 2 and list(tree) == ['params']
    assert_equal(tree['params']['b'], make_state(2).params['b'])
    assert reader.load('step', step=1).state['step'] == 1
    with pytest.raises(UserError, match='No step 7'):
      reader.load(step=7)
    with pytest.raises(UserError, match='reading only'):
      reader.save(9, make_state(9))


def test_missing_directory_for_a_reader(tmp_path):
  with pytest.raises(UserError, match='no such directory'):
    Checkpoints(tmp_path / 'none', read_only=True)


def test_prng_keys_are_refused(run):
  checkpoints, _ = run
  with pytest.raises(TypeError, match='rngs/main'):
    checkpoints.save(5, {'rngs': {'main': jax.random.key(0)}})


@pytest.mark.parametrize(
  'dtype', ['float32', 'bfloat16', 'int32', 'uint8', 'float16', 'complex64']
)
def test_checksum_sees_every_single_bit(dtype):
  """200 random bits, one at a time, and two values exchanged."""
  rng = np.random.default_rng(0)
  x = np.asarray(jnp.asarray(rng.normal(size=(5, 7)) * 40).astype(dtype))
  sums = jax.jit(jax.vmap(checksum))
  flipped = []
  for bit in rng.integers(0, x.nbytes * 8, 200):
    raw = bytearray(x.tobytes())
    raw[bit // 8] ^= 1 << (bit % 8)
    flipped.append(np.frombuffer(bytes(raw), x.dtype).reshape(x.shape))
  swapped = x.copy()
  swapped[0, 0], swapped[4, 6] = x[4, 6], x[0, 0]
  values = sums(np.stack([x, swapped, *flipped]))
  assert (values[1:] != values[0]).all()
