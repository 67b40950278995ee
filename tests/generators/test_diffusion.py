"""Gaussian diffusion: against NumPy in float64, and against a known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.generators import diffusion
from tokpress_jax.generators.heads import DiffusionHead

FULL = diffusion.cosine_schedule()


def test_the_schedule_is_the_cosine_and_fewer_steps_lie_on_it():
  share = lambda t: np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
  t = np.arange(1, 1000) / 1000  # The last step is clipped.
  np.testing.assert_allclose(FULL.signal[:-1], share(t) / share(0), rtol=1e-9)
  assert list(FULL.timesteps) == list(range(1000))
  few = diffusion.cosine_schedule(100)
  assert few.steps == 100 and few.timesteps[0] == 0
  assert few.timesteps[-1] == 999 and set(np.diff(few.timesteps)) == {10, 11}
  np.testing.assert_array_equal(few.signal, FULL.signal[few.timesteps])
  with pytest.raises(ValueError, match='keeps 2 to 1000 steps, got 1'):
    diffusion.cosine_schedule(1)


def test_the_loss_is_that_of_an_oracle():
  """By Bayes' rule for two Gaussians, not by the closed coefficients."""
  rng = np.random.default_rng(0)
  few = diffusion.cosine_schedule(50)
  step = np.arange(1, 50)
  x, noise, output = (rng.normal(size=(49, n)) for n in (3, 3, 6))
  got = diffusion.losses(few, *map(jnp.asarray, (output, x, noise, step)))
  want = []
  for i, k in enumerate(step):
    signal, before = few.signal[k], few.signal[k - 1]
    alpha = signal / before
    noised = np.sqrt(signal) * x[i] + np.sqrt(1 - signal) * noise[i]

    def posterior(clean, noised=noised, before=before, alpha=alpha):
      precision = 1 / (1 - before) + alpha / (1 - alpha)
      sum_ = np.sqrt(before) * clean / (1 - before)
      sum_ += np.sqrt(alpha) * noised / (1 - alpha)
      return sum_ / precision, 1 / precision

    guess, place = np.split(output[i], 2)
    clean = (noised - np.sqrt(1 - signal) * guess) / np.sqrt(signal)
    (true, small), (mean, _) = posterior(x[i]), posterior(clean)
    share = (place + 1) / 2
    variance = np.exp(share * np.log(1 - alpha) + (1 - share) * np.log(small))
    kl = np.log(variance / small) + (small + (true - mean) ** 2) / variance - 1
    bits = 0.5 * kl.mean() / np.log(2)
    want.append(np.mean((noise[i] - guess) ** 2) + bits)
  np.testing.assert_allclose(got, want, rtol=2e-4)


def test_the_bound_teaches_the_variance_alone():
  rng = np.random.default_rng(1)
  x, noise, output = (
    jnp.asarray(rng.normal(size=(4, n)), jnp.float32) for n in (2, 2, 4)
  )
  step = jnp.array([0, 10, 500, 999])
  total = lambda output: diffusion.losses(FULL, output, x, noise, step).sum()
  grads = jax.grad(total)(output)
  np.testing.assert_allclose(grads[:, :2], output[:, :2] - noise, rtol=1e-5)
  assert np.isfinite(grads).all() and (grads[1:, 2:] != 0).all()


@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_samples_of_a_known_distribution(temperature):
  """Of a normal distribution the best guess of the noise is known."""
  few = diffusion.cosine_schedule(100)
  mean, deviation = jnp.array([[2.0, -1.0]]), jnp.array([[0.5, 1.5]])
  signal = jnp.asarray(few.signal, jnp.float32)

  def predict(x, k):
    variance = signal[k] * deviation**2 + 1 - signal[k]
    noise = jnp.sqrt(1 - signal[k]) * (x - jnp.sqrt(signal[k]) * mean)
    return jnp.concatenate([noise / variance, -jnp.ones_like(x)], axis=-1)

  noise = jax.random.normal(jax.random.key(0), (100, 4000, 2))
  found = jax.jit(
    lambda noise: diffusion.sample(few, predict, noise, temperature=temperature)
  )(noise)
  np.testing.assert_allclose(found.mean(axis=0), mean[0], atol=0.1)
  spread = found.std(axis=0) / deviation[0]
  if temperature:
    np.testing.assert_allclose(spread, 1, atol=0.06)
  else:
    assert (spread < 0.5).all()


def test_guidance_moves_the_noise_alone():
  own, none = jnp.array([[1.0, 5.0]]), jnp.array([[3.0, 7.0]])
  np.testing.assert_array_equal(diffusion.guide(own, none, 0.5), [[0.0, 5.0]])


def test_the_heads_parts_are_the_whole():
  head = DiffusionHead(channels=2, width=8, depth=2)
  rng = np.random.default_rng(2)
  x, z = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 4, 5))
  time = rng.integers(1000, size=(3, 4))
  shapes = jax.eval_shape(head.init, jax.random.key(0), x, time, z)
  draw = lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32)
  bound = head.bind(jax.tree.map(draw, shapes))
  cond = bound.embed_time(time) + bound.embed_features(z)
  parts = bound.denoise(x, cond)
  assert parts.shape == (3, 4, 4)
  np.testing.assert_allclose(bound(x, time, z), parts, rtol=1e-5, atol=1e-5)
  assert not np.allclose(bound(x, time + 1, z), parts, atol=1e-3)
