"""LPIPS: its properties and its weights' names."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lpips_weights import released

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap, safetensors
from tokpress_jax.losses import LPIPS, load_lpips
from tokpress_jax.losses import lpips as lpips_lib

GOLDEN = pathlib.Path(__file__).parents[1] / 'golden' / 'lpips.npz'


@functools.cache
def variables():
  return keymap.convert(released(), lpips_lib.RULES, lpips_lib.expected())


@functools.cache
def images():
  keys = jax.random.split(jax.random.key(0), 2)
  return [jax.random.uniform(k, (2, 16, 16, 3), minval=-1) for k in keys]


RUN = jax.jit(LPIPS().apply)


def test_sizes_are_those_of_vgg16():
  flat = safetensors.flatten(lpips_lib.expected())
  assert sum(x.size for x in flat.values()) == 14_714_688 + 1_472
  assert len(flat) == 26 + 5


def test_is_a_distance_of_each_pair():
  x, y = images()
  found = RUN(variables(), x, y)
  assert found.shape == (2,) and (found > 0).all()
  np.testing.assert_allclose(RUN(variables(), y, x), found, rtol=1e-5)
  assert (RUN(variables(), x, x) < 1e-12).all()


def test_equals_the_package_lpips():
  """See tests/golden/make_lpips.py."""
  golden = np.load(GOLDEN)
  random = np.random.default_rng(1)
  for size in (16, 37):
    x, y = random.uniform(-1, 1, (2, 2, size, size, 3)).astype(np.float32)
    found = RUN(variables(), x, y)
    np.testing.assert_allclose(found, golden[f'distance_{size}'], rtol=1e-5)


def test_gradient_is_finite_where_no_feature_fires():
  x, y = images()
  dead = jax.tree.map(jnp.zeros_like, variables())
  slope = jax.jit(jax.grad(lambda x, v: LPIPS().apply(v, x, y).sum()))
  assert not slope(x, dead).any()  # neither NaN nor infinite
  assert np.isfinite(slope(x, variables())).all()


def test_grey_images_count_as_three_equal_channels():
  x, y = (i[..., :1] for i in images())
  grey = jax.jit(LPIPS().apply)(variables(), x, y)
  wide = RUN(variables(), jnp.tile(x, 3), jnp.tile(y, 3))
  np.testing.assert_allclose(grey, wide, rtol=1e-5)


def test_unfit_images():
  x, _ = images()
  with pytest.raises(ValueError, match='16 pixels or more'):
    LPIPS().apply(variables(), x[:, :15], x[:, :15])
  with pytest.raises(ValueError, match='1 or 3 channels'):
    LPIPS().apply(variables(), x[..., :2], x[..., :2])
  with pytest.raises(ValueError, match='Shapes differ'):
    LPIPS().apply(variables(), x, x[:1])


def _renamed(tensors, dialect):
  """The same tensors as PyPI's lpips or taming-transformers name them."""
  prefix = 'loss.perceptual_loss.' if dialect == 'taming' else ''
  found = {}
  for name, x in tensors.items():
    if name.startswith('features.'):
      place = int(name.split('.')[1])
      level = [min(r) <= place <= max(r) for r in lpips_lib.LEVELS].index(True)
      name = name.replace('features', f'net.slice{level + 1}')
    found[prefix + name] = x
    if name.startswith('lin') and dialect == 'lpips':
      found[name.replace('lin', 'lins.')] = x
  found[f'{prefix}scaling_layer.shift'] = np.zeros((1, 3, 1, 1), np.float32)
  return found


@pytest.mark.parametrize('dialect', ['torchvision', 'lpips', 'taming', 'ours'])
def test_weights_are_read_by_any_of_their_names(tmp_path, dialect):
  tensors = released()
  if dialect == 'ours':
    tensors = safetensors.flatten(variables())
  elif dialect == 'torchvision':
    tensors = tensors | {'classifier.0.bias': np.zeros(3, np.float32)}
  else:
    tensors = _renamed(tensors, dialect)
  safetensors.save(tmp_path / 'x.safetensors', tensors)
  found = load_lpips(tmp_path / 'x.safetensors')
  jax.tree.map(np.testing.assert_array_equal, found, variables())


def test_missing_weights_say_where_they_are(tmp_path):
  with pytest.raises(
    UserError, match=r'(?s)vgg16-397923af\.pth.*tokpress convert'
  ):
    load_lpips(tmp_path / 'nowhere.safetensors')
  half = {k: v for k, v in released().items() if k.startswith('lin')}
  safetensors.save(tmp_path / 'half.safetensors', half)
  with pytest.raises(UserError, match='26 missing'):
    load_lpips(tmp_path / 'half.safetensors')
