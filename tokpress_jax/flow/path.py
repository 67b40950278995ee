"""The straight path from data to noise: its points, its velocity, its loss.

Liu et al., "Flow Straight and Fast" (arXiv 2209.03003), section 2.1; Esser et
al., "Scaling Rectified Flow Transformers" (arXiv 2403.03206), section 3, for
the times. The convention of all flow code here: time 0 is data, time 1 is noise
(some papers count the other way), x_t = t noise + (1 - t) clean, and a network
predicts the velocity dx / dt = noise - clean.

Dimension letters: S sample axes (a batch, or a batch and its tokens), the rest
are features of a sample.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp

Array = jax.Array

Times = Literal['uniform', 'logit_normal']


def interpolate(clean: Array, noise: Array, t: Array) -> Array:
  """The point of the path at a time of its own for each sample.

  Args:
    clean: [S, ...].
    noise: [S, ...], standard normal.
    t: float32 [S], from 0 (clean) to 1 (noise).

  Returns:
    float32 [S, ...].
  """
  t = t.reshape(t.shape + (1,) * (clean.ndim - t.ndim))
  return t * noise + (1 - t) * clean


def velocity(clean: Array, noise: Array) -> Array:
  """What a network learns: noise - clean, the same at every time."""
  return noise - clean


def velocity_losses(
  predicted: Array, clean: Array, noise: Array, *, sample_axes: int = 1
) -> Array:
  """Squared error of the velocity, a mean over the features of a sample.

  Args:
    predicted: [S, ...].
    clean: [S, ...].
    noise: [S, ...].
    sample_axes: how many leading axes S is.

  Returns:
    float32 [S].
  """
  error = predicted.astype(jnp.float32) - velocity(clean, noise)
  return jnp.mean(jnp.square(error), axis=range(sample_axes, error.ndim))


def draw_times(
  rng: Array,
  shape: tuple[int, ...],
  *,
  times: Times = 'logit_normal',
  mean: float = 0.0,
  deviation: float = 1.0,
) -> Array:
  """Draws the times at which a network is trained.

  Args:
    rng: a typed key.
    shape: S.
    times: 'uniform' over [0, 1], or 'logit_normal': the sigmoid of a normal,
      which prefers the middle (2403.03206, section 3.1).
    mean: of the normal; above 0 there is more noise.
    deviation: of the normal.

  Returns:
    float32 S.

  Raises:
    ValueError: if there is no such way of drawing.
  """
  if times == 'uniform':
    return jax.random.uniform(rng, shape)
  if times != 'logit_normal' or not deviation > 0 or not math.isfinite(mean):
    raise ValueError(
      "times is 'uniform', or 'logit_normal' with a finite mean and a "
      f'deviation above 0; got {times!r}, {mean}, {deviation}'
    )
  return jax.nn.sigmoid(mean + deviation * jax.random.normal(rng, shape))
