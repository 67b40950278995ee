"""Integer checksums of arrays, on the devices that hold them."""

import math

import jax
import jax.numpy as jnp


def checksum(x: jax.Array) -> jax.Array:
  """Sums the bit patterns of `x`, each times an odd number of its position.

  Modulo 2**32, an odd multiplier keeps every single flipped bit visible, and
  the position makes exchanged values visible. Integer sums have no order, so
  any sharding gives the same value.

  Args:
    x: An array of any shape and numeric type.

  Returns:
    A uint32 scalar.
  """
  x = jnp.asarray(x)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  if jnp.issubdtype(x.dtype, jnp.complexfloating):
    x = jnp.stack([x.real, x.imag], -1)
  bits = min(8 * x.dtype.itemsize, 32)
  words = jax.lax.bitcast_convert_type(x, jnp.dtype(f'uint{bits}'))
  position = jnp.zeros(words.shape, jnp.uint32)
  for axis in range(words.ndim):
    stride = math.prod(words.shape[axis + 1 :]) % 2**32
    iota = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    position = position + iota * jnp.uint32(stride)
  weight = (position * jnp.uint32(0x9E3779B1)) | jnp.uint32(1)
  return jnp.sum(words.astype(jnp.uint32) * weight, dtype=jnp.uint32)


@jax.jit
def checksums(leaves: list[jax.Array]) -> list[jax.Array]:
  """The `checksum` of each leaf, in one program."""
  return [checksum(leaf) for leaf in leaves]
