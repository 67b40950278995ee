"""ConvNeXt's distance: its properties and its weights' names."""

import functools

import convnext_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import __main__ as entry
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap, safetensors
from tokpress_jax.losses import ConvNeXt, load_convnext
from tokpress_jax.losses import convnext as convnext_lib

RUN = jax.jit(case.NETWORK.apply)


@functools.cache
def variables():
  return keymap.convert(case.released(), convnext_lib.RULES, case.expected())


@functools.cache
def images():
  keys = jax.random.split(jax.random.key(0), 2)
  return [jax.random.uniform(k, (2, 40, 48, 3), minval=-1) for k in keys]


def test_sizes_are_those_of_torchvision():
  flat = safetensors.flatten(convnext_lib.expected())
  assert sum(x.size for x in flat.values()) == 50_223_688


def test_is_a_distance_of_each_pair():
  x, y = images()
  found = RUN(variables(), x, y)
  assert found.shape == (2,) and (found > 0).all()
  np.testing.assert_allclose(RUN(variables(), y, x), found, rtol=1e-4)
  assert not RUN(variables(), x, x).any()
  with pytest.raises(ValueError, match='Shapes differ'):
    ConvNeXt().apply(variables(), x, x[:1])
  with pytest.raises(ValueError, match='1 or 3 channels'):
    case.NETWORK.apply(variables(), x[..., :2], x[..., :2])


def test_grey_images_count_as_three_equal_channels():
  x, y = (i[..., :1] for i in images())
  wide = RUN(variables(), jnp.tile(x, 3), jnp.tile(y, 3))
  np.testing.assert_allclose(RUN(variables(), x, y), wide, rtol=1e-4)


def test_weights_are_converted_and_read(tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(convnext_lib, 'expected', case.expected)
  source, out = tmp_path / 'a.safetensors', tmp_path / 'b.safetensors'
  safetensors.save(source, case.released())
  argv = ['convert', 'convnext', str(source), '--out', str(out)]
  assert entry.main(argv) == 0
  assert 'convnext, ' in capsys.readouterr().out
  for file in (source, out):  # Torchvision's names, and ours.
    jax.tree.map(
      np.testing.assert_array_equal, load_convnext(file), variables()
    )
  with pytest.raises(UserError, match=r'(?s)convnext_small.*tokpress convert'):
    load_convnext(tmp_path / 'nowhere.safetensors')
  half = {k: v for k, v in case.released().items() if 'classifier' not in k}
  safetensors.save(source, half)
  with pytest.raises(UserError, match='4 missing'):
    load_convnext(source)
