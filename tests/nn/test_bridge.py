"""Our modules inside NNX, and our functions under JAX's transformations.

What somebody with a model of their own does: Linen modules through
`flax.nnx.bridge.ToNNX`, pure functions under their `jit`, `vmap`, `grad` and
`shard_map`. Pruners: tests/pruners/test_functional_use.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from tokpress_jax import quantize, tokenizers

try:
  from flax import nnx
except ImportError as error:  # flax 0.12.8 on jax 0.11
  nnx, REASON = None, f'flax.nnx does not import here: {error}'
else:
  REASON = ''

needs_nnx = pytest.mark.skipif(nnx is None, reason=REASON)
CONFIG = tokenizers.OneDConfig(
  image_size=4,
  channels=1,
  patch=2,
  tokens=3,
  width=8,
  heads=2,
  encoder_depth=1,
  decoder_depth=1,
  quantizer=quantize.VQConfig(codebook_size=8, dim=4),
)
IMAGES = jax.random.uniform(jax.random.key(0), (2, 4, 4, 1), minval=-1)


@needs_nnx
def test_a_tokenizer_runs_and_learns_inside_nnx():
  linen = CONFIG.build()
  model = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0)).lazy_init(IMAGES)
  params = nnx.to_pure_dict(nnx.state(model, nnx.Param))

  def error(out):
    return jnp.mean((out.images - IMAGES) ** 2) + out.quantized.loss

  @nnx.jit
  def step(model):
    value, grads = nnx.value_and_grad(lambda m: error(m(IMAGES)))(model)
    old = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - 0.01 * g, old, grads))
    return value, grads

  # The same parameters, run by Linen itself.
  loss = lambda params: error(linen.apply({'params': params}, IMAGES))
  want, want_grads = jax.jit(jax.value_and_grad(loss))(params)
  value, grads = step(model)
  np.testing.assert_allclose(value, want, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
    nnx.to_pure_dict(grads),
    want_grads,
  )
  assert step(model)[0] < value


def test_quantiser_under_grad_and_vmap():
  """A codebook for each of three groups, as in product quantisation."""
  key = jax.random.split(jax.random.key(1), 2)
  z = jax.random.normal(key[0], (3, 5, 4))
  codebooks = jax.random.normal(key[1], (3, 8, 4))

  def loss(z, codebooks):
    out = jax.vmap(quantize.vq)(z, codebooks)
    return jnp.sum(out.embeddings**2) + jnp.sum(out.loss), out

  grad = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (to_z, to_codes), out = grad(z, codebooks)
  for g in range(3):
    alone = quantize.vq(z[g], codebooks[g])
    np.testing.assert_array_equal(out.codes[g], alone.codes)
    used = np.zeros(8, bool)
    used[np.asarray(alone.codes)] = True
    np.testing.assert_array_equal(np.any(to_codes[g], axis=-1), used)
  assert np.all(np.any(to_z, axis=-1))


def over_devices(fn, out_specs):
  """Each of 8 devices runs `fn` on its rows."""
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  rows = PartitionSpec('data')
  return jax.jit(
    jax.shard_map(fn, mesh=mesh, in_specs=rows, out_specs=out_specs)
  )


def test_quantiser_under_shard_map_sums_its_statistics():
  z = jax.random.normal(jax.random.key(2), (16, 3, 4))
  codebook = jax.random.normal(jax.random.key(3), (8, 4))

  def local(z):
    out = quantize.vq(z, codebook)
    return out.codes, jax.tree.map(lambda s: jax.lax.psum(s, 'data'), out.stats)

  rows, whole = PartitionSpec('data'), PartitionSpec()
  codes, stats = over_devices(local, (rows, whole))(z)
  want = quantize.vq(z, codebook)
  np.testing.assert_array_equal(codes, want.codes)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), stats, want.stats
  )
