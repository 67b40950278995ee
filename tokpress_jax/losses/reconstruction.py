"""Distances between images, averaged in float32.

Dimensions: B batch; any axes may follow.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def l1(x: Array, y: Array, *, mask: Array | None = None) -> Array:
  """The mean of |x - y|.

  Args:
    x: [B, ...], any float dtype.
    y: of the same shape.
    mask: bool [B, ...], a prefix of the axes, the entries that count; None
      for all. Nothing to count gives 0.

  Returns:
    float32 [].
  """
  return _mean(jnp.abs(_difference(x, y)), mask)


def l2(x: Array, y: Array, *, mask: Array | None = None) -> Array:
  """The mean of (x - y)^2; see `l1` for the arguments."""
  return _mean(jnp.square(_difference(x, y)), mask)


def charbonnier(
  x: Array, y: Array, *, mask: Array | None = None, eps: float = 1e-3
) -> Array:
  """The mean of sqrt((x - y)^2 + eps^2), a smooth `l1`.

  Charbonnier et al. (1994), as in Lai et al. (arXiv:1704.03915), section 3.3.

  Args:
    x: see `l1`.
    y: see `l1`.
    mask: see `l1`.
    eps: where the parabola becomes a line.

  Returns:
    float32 []; eps if x equals y.
  """
  return _mean(jnp.sqrt(jnp.square(_difference(x, y)) + eps * eps), mask)


def _difference(x: Array, y: Array) -> Array:
  if x.shape != y.shape:
    raise ValueError(f'Shapes differ: {x.shape} and {y.shape}.')
  return x.astype(jnp.float32) - y.astype(jnp.float32)


def _mean(error: Array, mask: Array | None) -> Array:
  if mask is None:
    return jnp.mean(error)
  error = jnp.mean(error, axis=tuple(range(mask.ndim, error.ndim)))
  kept = jnp.sum(jnp.where(mask, error, 0.0))
  return kept / jnp.maximum(jnp.sum(mask), 1)
