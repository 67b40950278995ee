"""Classifier-free guidance of a velocity, plain and projected.

Ho & Salimans, "Classifier-Free Diffusion Guidance" (arXiv 2207.12598); Sadat et
al., "Eliminating Oversaturation and Artifacts of High Guidance Scales in
Diffusion Models" (APG, arXiv 2410.02416).

Dimension letters: B batch; the rest are features of a sample.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def plain_guidance(
  conditional: Array, unconditional: Array, scale: Array | float
) -> Array:
  """Plain guidance, u + scale (c - u): a scale of 1 is none.

  Args:
    conditional: c, [B, ...].
    unconditional: u, [B, ...].
    scale: broadcastable.

  Returns:
    [B, ...].
  """
  return unconditional + scale * (conditional - unconditional)


def projected_guidance(
  conditional: Array,
  unconditional: Array,
  scale: Array | float,
  average: Array,
  *,
  momentum: float = -0.5,
  threshold: float = 2.5,
  eta: float = 0.0,
) -> tuple[Array, Array]:
  """Adaptive projected guidance (2410.02416, algorithm 1): no oversaturation.

  The difference c - u joins a running average (a negative momentum weakens what
  lasts), is shortened to the threshold, and loses all but `eta` of its part
  along c. Norm and projection are over a whole sample, in float32.

  Args:
    conditional: c, [B, ...].
    unconditional: u, [B, ...].
    scale: 1 is none.
    average: float32 [B, ...], the state; zeros at first.
    momentum: of the average.
    threshold: the longest difference, in the l2 norm; 0 for any length.
    eta: share of the part along c that stays.

  Returns:
    What is guided, and the new state, float32 [B, ...].
  """
  c = conditional.astype(jnp.float32)
  average = c - unconditional + momentum * average
  difference = average
  if threshold > 0:
    # The root is of a positive number, so that there are gradients at 0.
    square = jnp.maximum(_dot(difference, difference), threshold**2)
    difference *= threshold * jax.lax.rsqrt(square)
  unit = c * jax.lax.rsqrt(jnp.maximum(_dot(c, c), 1e-24))
  along = _dot(difference, unit) * unit
  guided = c + (scale - 1) * (difference - along + eta * along)
  return guided, average


def _dot(a: Array, b: Array) -> Array:
  """The scalar product of samples [B, ...], as [B, 1, ...]."""
  return jnp.sum(a * b, axis=range(1, a.ndim), keepdims=True)
