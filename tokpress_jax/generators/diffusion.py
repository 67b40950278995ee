"""Gaussian diffusion of small vectors: its loss, and its sampling.

Ho et al., "Denoising Diffusion Probabilistic Models" (arXiv 2006.11239); the
cosine schedule, the learned variance and fewer steps than in training are
Nichol & Dhariwal's, "Improved Denoising Diffusion Probabilistic Models" (arXiv
2102.09672, sections 3.1, 3.2 and 4). MAR's diffusion head (Li et al., arXiv
2406.11838, section 3) has all of it, and with it MaskGen and Hi-MAR. A network
gives, for each noised vector, the noise and where the log of the variance lies
between its bounds.

Everything is float32, from tables that are made in float64.

Dimension letters: C channels, T steps of a schedule.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.generators import sampling

Array = jax.Array

TRAINING_STEPS = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """How much noise there is at each of T steps; step 0 is almost clean.

  Attributes:
    timesteps: int32 [T], what a network is told at each step: the step's number
      in the schedule that it was trained on.
    signal: float64 [T], the share of variance that is left of the data after
      each step (the cumulative product of alpha).
  """

  timesteps: np.ndarray
  signal: np.ndarray

  @property
  def steps(self) -> int:
    """T."""
    return len(self.timesteps)

  @functools.cached_property
  def tables(self) -> dict[str, np.ndarray]:
    """What the functions below look up, by name: float32 [T]."""
    signal, before = self.signal, np.append(1.0, self.signal[:-1])
    alpha = signal / before
    beta, noise = 1 - alpha, 1 - signal
    variance = beta * (1 - before) / noise
    # The first variance is 0, which has no log: the second stands for it.
    low = np.log(np.append(variance[1:2], variance[1:]))
    tables = {
      'signal_scale': np.sqrt(signal),
      'noise_scale': np.sqrt(noise),
      'clean_of_noised': np.sqrt(1 / signal),
      'clean_of_noise': np.sqrt(1 / signal - 1),
      'mean_of_clean': beta * np.sqrt(before) / noise,
      'mean_of_noised': (1 - before) * np.sqrt(alpha) / noise,
      'low': low,
      'high': np.log(beta),
    }
    return {name: x.astype(np.float32) for name, x in tables.items()}

  def at(self, name: str, step: Array) -> Array:
    """Looks up a table at steps [...]: float32 [..., 1]."""
    return jnp.asarray(self.tables[name])[step][..., None]


@functools.cache
def cosine_schedule(steps: int = TRAINING_STEPS) -> Schedule:
  """The cosine schedule of 1,000 steps, or some of them, evenly apart.

  Args:
    steps: T, from 2 to 1,000.

  Returns:
    The schedule (2102.09672, equations 17 and 19).

  Raises:
    ValueError: if there are too few or too many steps.
  """
  if not 2 <= steps <= TRAINING_STEPS:
    raise ValueError(
      f'a schedule keeps 2 to {TRAINING_STEPS} steps, got {steps}'
    )
  share = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
  ends = [share(i / TRAINING_STEPS) for i in range(TRAINING_STEPS + 1)]
  betas = [min(1 - b / a, 0.999) for a, b in itertools.pairwise(ends)]
  signal = np.cumprod(1 - np.array(betas))
  # Strides add up one by one, as in the official code: a product would round
  # some of them to another step.
  stride = (TRAINING_STEPS - 1) / (steps - 1)
  places = np.cumsum(np.append(0.0, np.full(steps - 1, stride)))
  kept = np.round(places).astype(np.int32)
  return Schedule(timesteps=kept, signal=signal[kept])


def add_noise(schedule: Schedule, x: Array, noise: Array, step: Array) -> Array:
  """Noises clean vectors (2006.11239, equation 4).

  Args:
    schedule: of T steps.
    x: [..., C].
    noise: standard normal [..., C].
    step: int [...], 0 ... T - 1.

  Returns:
    float32 [..., C].
  """
  x = schedule.at('signal_scale', step) * x
  return x + schedule.at('noise_scale', step) * noise


def predicted(
  schedule: Schedule, output: Array, noised: Array, step: Array
) -> tuple[Array, Array]:
  """What a network says of the vectors one step cleaner.

  Args:
    schedule: of T steps.
    output: [..., 2 C] of a network: the noise, and the place v of the log of
      the variance, -1 at the posterior's and 1 at that of a step.
    noised: [..., C].
    step: int [...].

  Returns:
    Mean and log of the variance, float32 [..., C].
  """
  noise, place = jnp.split(output.astype(jnp.float32), 2, axis=-1)
  at = functools.partial(schedule.at, step=step)
  clean = at('clean_of_noised') * noised - at('clean_of_noise') * noise
  mean = at('mean_of_clean') * clean + at('mean_of_noised') * noised
  share = (place + 1) / 2
  return mean, share * at('high') + (1 - share) * at('low')


def losses(
  schedule: Schedule, output: Array, x: Array, noise: Array, step: Array
) -> Array:
  """The training loss of each vector, a mean over its channels.

  The squared error of the noise, and the variational bound in bits, through
  which only the variance learns (2102.09672, section 3.1, without its weight of
  0.001): a divergence from the posterior, at step 0 the negative log likelihood
  of the data in bins of 2 / 255.

  Args:
    schedule: of T steps.
    output: [..., 2 C] of a network for `add_noise(schedule, x, noise, step)`.
    x: [..., C], clean.
    noise: [..., C].
    step: int [...].

  Returns:
    float32 [...].
  """
  x, output = x.astype(jnp.float32), output.astype(jnp.float32)
  noised = add_noise(schedule, x, noise, step)
  guess, place = jnp.split(output, 2, axis=-1)
  square = jnp.mean(jnp.square(noise - guess), axis=-1)
  frozen = jnp.concatenate([jax.lax.stop_gradient(guess), place], axis=-1)
  mean, log_variance = predicted(schedule, frozen, noised, step)
  at = functools.partial(schedule.at, step=step)
  true_mean = at('mean_of_clean') * x + at('mean_of_noised') * noised
  gap = at('low') - log_variance
  apart = jnp.square(true_mean - mean) * jnp.exp(-log_variance)
  divergence = 0.5 * (-1 - gap + jnp.exp(gap) + apart)
  likelihood = _binned_log_likelihood(x, mean, 0.5 * log_variance)
  first = (step == 0)[..., None]
  bound = jnp.where(first, -likelihood, divergence)
  return square + jnp.mean(bound, axis=-1) / math.log(2)


def _binned_log_likelihood(x: Array, mean: Array, log_scale: Array) -> Array:
  """Log probability of the bin of x, nats; the outer bins have no end."""
  sharpness = jnp.exp(-log_scale)
  above = _normal_cdf(sharpness * (x - mean + 1 / 255))
  below = _normal_cdf(sharpness * (x - mean - 1 / 255))
  inside = jnp.where(x > 0.999, 1 - below, above - below)
  inside = jnp.where(x < -0.999, above, inside)
  return jnp.log(jnp.maximum(inside, 1e-12))


def _normal_cdf(x: Array) -> Array:
  """The usual approximation by tanh, as the official loss has it."""
  return 0.5 * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def sample(
  schedule: Schedule,
  predict: Callable[[Array, Array], Array],
  noise: Array,
  *,
  temperature: Any = 1.0,
) -> Array:
  """Draws vectors, from noise to clean (2006.11239, algorithm 2).

  Args:
    schedule: of T steps, all of which are taken: one scan.
    predict: (noised [..., C], index []) -> [..., 2 C]; see `predicted`. The
      index counts the schedule's steps; `schedule.timesteps` has what the
      network knows them by.
    noise: standard normal [T, ..., C]: where it starts, and what is added after
      each step but the last.
    temperature: of the added noise.

  Returns:
    float32 [..., C].
  """

  def body(x: Array, xs: Any) -> tuple[Array, None]:
    index, added = xs
    step = jnp.broadcast_to(index, x.shape[:-1])
    mean, log_variance = predicted(schedule, predict(x, index), x, step)
    return mean + jnp.exp(0.5 * log_variance) * added * temperature, None

  index = jnp.arange(schedule.steps - 1, -1, -1, dtype=jnp.int32)
  nothing = jnp.zeros_like(noise[:1])
  added = jnp.concatenate([noise[1:], nothing])
  x, _ = jax.lax.scan(body, noise[0].astype(jnp.float32), (index, added))
  return x


def guide(conditional: Array, unconditional: Array, t: Array | float) -> Array:
  """Classifier-free guidance of the noise, (1 + t) c - t u.

  Args:
    conditional: [..., 2 C] of a network.
    unconditional: as `conditional`.
    t: 0 is none, broadcastable.

  Returns:
    [..., 2 C]; the variance is that of the condition.
  """
  noise, place = jnp.split(conditional, 2, axis=-1)
  other = jnp.split(unconditional, 2, axis=-1)[0]
  return jnp.concatenate([sampling.guide(noise, other, t), place], axis=-1)
