"""A reconstruction loss that weighs every decibel the same.

Dimensions: B batch; any axes may follow.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def decibel(
  x: Array, y: Array, *, mask: Array | None = None, floor: float = 1e-4
) -> Array:
  """The mean over images of log(mean((x - y)^2) + floor), in nats.

  Ten decibels of PSNR are log(10) of it. Under nested dropout the plain `l2`
  is ruled by the shortest prefixes, whose errors are the largest, and the
  later tokens learn little; here a decibel counts the same at any length.

  Args:
    x: [B, ...], any float dtype.
    y: of the same shape.
    mask: bool [B], the images that count; None for all.
    floor: the mean squared error below which gains stop to count.

  Returns:
    float32 []; 0 if nothing counts.
  """
  error = jnp.square(x.astype(jnp.float32) - y.astype(jnp.float32))
  error = jnp.log(jnp.mean(error, axis=tuple(range(1, error.ndim))) + floor)
  if mask is None:
    return jnp.mean(error)
  return jnp.sum(jnp.where(mask, error, 0)) / jnp.maximum(jnp.sum(mask), 1)
