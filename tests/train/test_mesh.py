import jax
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.train import mesh as mesh_lib
from tokpress_jax.train.config import MeshConfig


def sizes(**config):
  return tuple(mesh_lib.make_mesh(MeshConfig(**config)).shape.values())


def test_one_axis_takes_what_is_left():
  assert sizes() == (8, 1, 1)
  assert sizes(fsdp=4) == (2, 4, 1)
  assert sizes(data=1, fsdp=-1, model=2) == (1, 4, 2)
  mesh = mesh_lib.make_mesh(MeshConfig(), devices=jax.devices()[:2])
  assert mesh.shape['data'] == 2
  assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
  'config, words',
  [
    ({'data': 3}, 'does not fit 8 device'),
    ({'fsdp': 3}, 'does not fit 8 device'),
    ({'fsdp': 16}, 'does not fit 8 device'),
    ({'fsdp': -1}, 'at most one -1'),
    ({'data': 0}, 'positive sizes'),
  ],
)
def test_a_mesh_that_does_not_fit_says_so(config, words):
  with pytest.raises(UserError, match=words):
    mesh_lib.make_mesh(MeshConfig(**config))


def test_batches_must_divide():
  mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, model=2))
  mesh_lib.check_batch(mesh, 8, accumulate=2)
  with pytest.raises(UserError, match=r'--train.batch-size 8 or 12'):
    mesh_lib.check_batch(mesh, 10)
  with pytest.raises(UserError, match='x 3 microbatches = 12'):
    mesh_lib.check_batch(mesh, 8, accumulate=3)


def test_batches_land_where_they_belong():
  mesh = mesh_lib.make_mesh(MeshConfig(data=2, fsdp=2, model=2))
  assert mesh_lib.host_share(mesh, 8) == (0, 1)
  x = np.arange(16, dtype=np.int64).reshape(8, 2)
  out = mesh_lib.put_batch({'x': x}, mesh, count=1)['x']
  np.testing.assert_array_equal(out, x)
  assert out.dtype == np.int32
  assert out.sharding.shard_shape(out.shape) == (2, 2)
