"""What every quantiser must do: a new one joins by one row."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tokpress_jax.quantize import (
  FSQConfig,
  LFQConfig,
  MultiScaleVQConfig,
  ResidualVQConfig,
  VQConfig,
)

B = 8


@dataclasses.dataclass(frozen=True)
class Row:
  """A method: a small config, its inputs, and a published size."""

  config: Any
  published: Any
  shape: tuple[int, ...] = (B, 6)  # Of the tokens, without features.
  mask_shape: tuple[int, ...] = (B, 6)
  published_shape: tuple[int, ...] = (2, 256)
  identity_gradient: bool = True


SMALL = VQConfig(codebook_size=16, dim=4, revive_below=0.1)
ROWS = {
  'vq': Row(SMALL, VQConfig(codebook_size=16384, dim=8)),
  'vq_cosine': Row(
    dataclasses.replace(SMALL, distance='cosine'),
    VQConfig(codebook_size=4096, dim=12, distance='cosine'),
    identity_gradient=False,
  ),
  'vq_ema': Row(
    dataclasses.replace(SMALL, learning='ema'),
    VQConfig(codebook_size=32768, dim=16, learning='ema', distance='cosine'),
  ),
  'fsq_google': Row(
    FSQConfig(levels=(8, 5, 4)),
    FSQConfig(levels=(8, 8, 8, 5, 5, 5)),
    identity_gradient=False,
  ),
  'fsq_lucidrains': Row(
    FSQConfig(levels=(8, 5, 4), form='lucidrains'),
    FSQConfig(levels=(8, 8, 8, 5, 5, 5), form='lucidrains'),
    identity_gradient=False,
  ),
  'lfq': Row(LFQConfig(bits=6), LFQConfig(bits=18), published_shape=(2, 16)),
  'bsq': Row(
    LFQConfig(bits=6, code_bits=3, norm='sphere', entropy_bits=3),
    LFQConfig(bits=36, code_bits=18, norm='sphere', entropy_bits=9),
    identity_gradient=False,
  ),
  'residual': Row(
    ResidualVQConfig(vq=SMALL, num_quantizers=3),
    ResidualVQConfig(vq=VQConfig(codebook_size=8192, dim=32)),
  ),
  'multi_scale': Row(
    MultiScaleVQConfig(vq=SMALL, scales=(2, 4), phi=2),
    MultiScaleVQConfig(),
    shape=(B, 4, 4),
    mask_shape=(B,),
    published_shape=(2, 16, 16),
  ),
  'multi_scale_ema': Row(
    MultiScaleVQConfig(
      vq=dataclasses.replace(SMALL, learning='ema'),
      scales=(1, 4),
      phi=0,
      standardize='scale',
    ),
    MultiScaleVQConfig(scales=(1, 2, 3, 4, 6, 9, 13, 18, 24, 32)),
    shape=(B, 4, 4),
    mask_shape=(B,),
    published_shape=(1, 32, 32),
  ),
  'multi_scale_own': Row(
    MultiScaleVQConfig(
      vq=dataclasses.replace(SMALL, learning='ema'),
      scales=(2, 4),
      phi=0,
      codebooks='scale',
    ),
    MultiScaleVQConfig(codebooks='scale'),
    shape=(B, 4, 4),
    mask_shape=(B,),
    published_shape=(2, 16, 16),
  ),
}
ALL = pytest.mark.parametrize('name', list(ROWS))


@functools.cache
def _setup(name):
  row = ROWS[name]
  module = row.config.build()
  z = jax.random.normal(jax.random.key(1), (*row.shape, row.config.dim))
  variables = jax.jit(module.init)(jax.random.key(0), z)
  mask = jax.random.bernoulli(jax.random.key(2), 0.6, row.mask_shape)
  mask = mask.at[0].set(True).at[1].set(False)
  apply = jax.jit(lambda v, z, m: module.apply(v, z, mask=m))
  return row, module, variables, z, mask, apply


def _tokens_mask(row, mask):
  """The mask of the inputs' tokens, from the mask the method takes."""
  extra = (1,) * (len(row.shape) - mask.ndim)
  return jnp.broadcast_to(mask.reshape(*mask.shape, *extra), row.shape)


def _close(a, b, **kwargs):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(
      np.asarray(x, np.float32), np.asarray(y, np.float32), **kwargs
    ),
    a,
    b,
  )


@ALL
def test_apply_under_jit_equals_eager(name):
  row, module, variables, z, mask, apply = _setup(name)
  out = apply(variables, z, mask)
  _close(out, module.apply(variables, z, mask=mask), rtol=2e-5, atol=2e-5)
  assert out.embeddings.shape == z.shape
  assert out.codes.dtype == jnp.int32
  assert out.codes.shape[-1] == row.config.num_codes
  assert out.codes.min() >= 0 and out.codes.max() < row.config.codebook_size
  # Every token that counts is counted once per code.
  tokens = np.asarray(mask).sum() * row.config.num_codes
  if name.startswith('multi_scale'):
    tokens *= row.config.boundaries[-1]
  assert out.stats.count.sum() == tokens


@ALL
def test_lookup_equals_embeddings(name):
  _, module, variables, z, mask, apply = _setup(name)
  out = apply(variables, z, jnp.ones_like(mask))
  found = module.apply(variables, out.codes, method='lookup')
  np.testing.assert_allclose(found, out.embeddings, rtol=0, atol=2e-6)


@ALL
def test_bfloat16_is_finite_and_keeps_dtype(name):
  _, _, variables, z, mask, apply = _setup(name)
  out = apply(variables, (4 * z).astype(jnp.bfloat16), mask)
  assert out.embeddings.dtype == jnp.bfloat16
  for leaf in jax.tree.leaves(out):
    assert np.isfinite(np.asarray(leaf, np.float32)).all()
  assert all(x.dtype == jnp.float32 for x in out.losses.values())


@ALL
def test_gradients_pass_straight_through(name):
  row, module, variables, z, mask, _ = _setup(name)
  w = jax.random.normal(jax.random.key(3), z.shape)

  def through(z):
    return jnp.sum(w * module.apply(variables, z, mask=mask).embeddings)

  grad = jax.jit(jax.grad(through))(z)
  keep = _tokens_mask(row, mask)[..., None]
  if row.identity_gradient:
    np.testing.assert_allclose(grad, jnp.where(keep, w, 0), atol=1e-6)
  else:
    assert jnp.all(jnp.where(keep, grad != 0, grad == 0))


@ALL
def test_every_parameter_learns_from_the_losses(name):
  _, module, variables, z, mask, _ = _setup(name)

  def loss(params):
    return module.apply({**variables, 'params': params}, z, mask=mask).loss

  grads = jax.jit(jax.grad(loss))(variables.get('params', {}))
  for grad in jax.tree.leaves(grads):
    assert np.isfinite(grad).all() and np.abs(grad).sum() > 0


@ALL
def test_batch_of_one_equals_row(name):
  _, module, variables, z, mask, apply = _setup(name)
  whole = apply(variables, z, jnp.ones_like(mask))
  one = jax.jit(module.apply)(variables, z[2:3])
  np.testing.assert_array_equal(one.codes[0], whole.codes[2])
  np.testing.assert_allclose(one.embeddings[0], whole.embeddings[2], atol=1e-6)


@ALL
def test_padding_is_ignored(name):
  row, _, variables, z, mask, apply = _setup(name)
  keep = _tokens_mask(row, mask)[..., None]
  out = apply(variables, jnp.where(keep, z, 1e4), mask)
  _close(out, apply(variables, jnp.where(keep, z, jnp.nan), mask))
  assert jnp.all(jnp.where(keep, 0, out.embeddings) == 0)


@ALL
def test_sharded_over_8_devices_equals_single(name):
  _, _, variables, z, mask, apply = _setup(name)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  split = NamedSharding(mesh, PartitionSpec('data'))
  whole = NamedSharding(mesh, PartitionSpec())
  out = apply(
    jax.device_put(variables, whole),
    jax.device_put(z, split),
    jax.device_put(mask, split),
  )
  assert len(out.embeddings.sharding.device_set) == 8
  _close(out, apply(variables, z, mask), rtol=1e-5, atol=1e-6)


@ALL
def test_statistics_add_over_microbatches(name):
  row, _, variables, z, mask, apply = _setup(name)
  nothing = mask & False
  first = mask & (jnp.arange(B) < 4).reshape(-1, *(1,) * (mask.ndim - 1))
  halves = [apply(variables, z, m).stats for m in (first, mask & ~first)]
  total = jax.tree.map(jnp.add, *halves)
  stats = apply(variables, z, mask).stats
  _close(total, stats, rtol=1e-5, atol=1e-5)
  update = jax.jit(row.config.update)
  key = jax.random.key(5)
  new = update(variables, stats, rng=key)
  _close(new, update(variables, total, rng=key), rtol=1e-4, atol=1e-4)
  assert jax.tree.structure(new) == jax.tree.structure(variables)
  # A batch of padding teaches nothing.
  empty = apply(variables, z, nothing).stats
  _close(update(variables, empty, rng=key), variables, rtol=0)


@ALL
def test_published_size(name):
  row = ROWS[name]
  config = row.published
  module = config.build()
  z = jax.ShapeDtypeStruct((*row.published_shape, config.dim), jnp.float32)
  variables = jax.eval_shape(module.init, jax.random.key(0), z)
  out = jax.eval_shape(module.apply, variables, z)
  assert out.embeddings.shape == z.shape
  found = jax.eval_shape(
    functools.partial(module.apply, method='lookup'), variables, out.codes
  )
  assert found.shape == z.shape


@ALL
def test_another_number_of_features_is_refused(name):
  row, module, variables, z, _, _ = _setup(name)
  wrong = jnp.concatenate([z, z[..., :1]], axis=-1)
  with pytest.raises(ValueError, match=rf'{row.config.dim}\]') as error:
    module.apply(variables, wrong)
  assert f'got {wrong.shape}' in str(error.value)
