"""Nested dicts to a file and back, bit for bit."""

import os
import stat

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.io import safetensors

TREE = {
  'params': {
    'a': {'kernel': jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3).T},
    'scale': jnp.float32(3),
  },
  'codebook': {
    'count': np.arange(4, dtype=np.int32),
    'seen': np.array([True, False]),
    'none': np.zeros((0, 4), np.float32),
  },
}


def test_round_trip(tmp_path):
  path = tmp_path / 'x.safetensors'
  safetensors.save(path, TREE, {'licence': 'CC0'})
  again = safetensors.load(path)
  assert jax.tree.structure(again) == jax.tree.structure(TREE)
  for a, b in zip(jax.tree.leaves(TREE), jax.tree.leaves(again), strict=True):
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  assert safetensors.metadata(path) == {'licence': 'CC0'}
  assert safetensors.fingerprint(again) == safetensors.fingerprint(TREE)


def test_files_have_the_mode_of_any_other(tmp_path):
  old = os.umask(0o022)
  try:
    safetensors.save(tmp_path / 'x', TREE)
    assert os.umask(0o022) == 0o022
  finally:
    os.umask(old)
  assert stat.S_IMODE((tmp_path / 'x').stat().st_mode) == 0o644


@pytest.mark.parametrize('what', ['value', 'name', 'shape', 'dtype'])
def test_fingerprint_sees(what):
  flat = safetensors.flatten(TREE)
  count = flat.pop('codebook/count')
  name = 'codebook/total' if what == 'name' else 'codebook/count'
  flat[name] = {
    'value': count + 1,
    'name': count,
    'shape': count.reshape(2, 2),
    'dtype': count.astype(np.int64),
  }[what]
  other = safetensors.fingerprint(safetensors.unflatten(flat))
  assert other != safetensors.fingerprint(TREE)


def test_flatten_names():
  assert 'params/a/kernel' in safetensors.flatten(TREE)


def test_damaged_and_missing(tmp_path):
  path = tmp_path / 'x.safetensors'
  with pytest.raises(UserError, match='There is no file'):
    safetensors.load(path)
  safetensors.save(path, TREE)
  path.write_bytes(path.read_bytes()[:-8])
  with pytest.raises(UserError, match='not a whole safetensors file'):
    safetensors.load(path)
