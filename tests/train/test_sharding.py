import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tokpress_jax.errors import UserError
from tokpress_jax.train import sharding
from tokpress_jax.train.config import MeshConfig
from tokpress_jax.train.mesh import make_mesh


def shapes(**named):
  return {k: jax.ShapeDtypeStruct(v, jnp.float32) for k, v in named.items()}


def specs(variables, rules=(), **config):
  config = MeshConfig(**{'fsdp_min_size': 64, **config})
  out = sharding.shard(variables, make_mesh(config), config, rules=rules)
  return {name: s.spec for name, s in out.items()}


def test_the_first_rule_wins_and_the_rest_falls_back():
  variables = shapes(
    qkv=(16, 3, 8), wide=(8, 64), odd=(63, 3), tie=(16, 16), small=(4,)
  )
  found = specs(
    variables,
    rules=(('qkv', ('fsdp', None, 'model')), ('q', ('model',))),
    fsdp=4,
    model=2,
  )
  assert found['qkv'] == P('fsdp', None, 'model')
  assert found['wide'] == P(None, 'fsdp')
  assert found['tie'] == P(None, 'fsdp')
  assert found['odd'] == found['small'] == P()


def test_without_fsdp_everything_is_whole():
  assert specs(shapes(wide=(8, 64)))['wide'] == P()


@pytest.mark.parametrize(
  'axes, words',
  [
    (('model', None, None), 'has 3 entries'),
    (('modle',), 'may be named at most once'),
    (('model', 'model'), 'may be named at most once'),
    ((None, 'model'), 'does not divide'),
    (((('fsdp', 'model')),), 'into 8'),
  ],
)
def test_a_rule_that_does_not_fit_names_the_array(axes, words):
  with pytest.raises(UserError, match=words) as error:
    specs(shapes(head=(4, 7)), rules=(('head', axes),), fsdp=4, model=2)
  assert 'head' in str(error.value)


def test_the_guard_counts_bytes_that_stay_whole():
  variables = shapes(good=(64, 64), bad=(61, 61))
  assert specs(variables, fsdp=4)['bad'] == P()  # 31 kB: too small to matter
  with pytest.raises(UserError, match=r'47\.6% .* bad \(61, 61\)'):
    specs(variables, fsdp=4, guard_min_mb=0.01)
  specs(variables, fsdp=4, guard_min_mb=0.01, max_unsharded=0.5)
  specs(variables, guard_min_mb=0.01)


def test_the_table_shows_the_bytes_of_one_device():
  variables = shapes(big=(1000, 1000), bias=(10,))
  config = MeshConfig(fsdp=4)
  placed = sharding.shard(variables, make_mesh(config), config)
  assert sharding.bytes_per_device(variables, placed) == 1_000_040
  rows = sharding.table(variables, placed).splitlines()
  assert rows[1].split() == ['bias', '10', '-', '0.000']
  assert rows[2].split() == ['big', '1000x1000', 'None,', 'fsdp', '1.000']
  assert rows[-1].split() == ['total', '4.000', 'MB', '1.000']
