"""Rectified flow against oracles, and on a flow whose solution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import flow
from tokpress_jax.errors import UserError

RNG = np.random.default_rng(0)


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def test_the_path_ends_in_data_and_noise_and_has_one_slope():
  clean, noise = draw(3, 4, 2), draw(3, 4, 2)
  ends = jnp.array([0.0, 1.0, 0.5])
  at = flow.interpolate(clean, noise, ends)
  np.testing.assert_allclose(at[0], clean[0])
  np.testing.assert_allclose(at[1], noise[1])
  np.testing.assert_allclose(at[2], (clean[2] + noise[2]) / 2, rtol=1e-6)
  later = flow.interpolate(clean, noise, ends + 0.25)
  slope = flow.velocity(clean, noise)
  np.testing.assert_allclose((later - at) / 0.25, slope, atol=1e-5)


def test_losses_are_of_samples():
  clean, noise, guess = draw(3, 4, 2), draw(3, 4, 2), draw(3, 4, 2)
  square = (guess - (noise - clean)) ** 2
  got = flow.velocity_losses(guess, clean, noise)
  np.testing.assert_allclose(got, square.mean((1, 2)), rtol=1e-5)
  got = flow.velocity_losses(guess, clean, noise, sample_axes=2)
  np.testing.assert_allclose(got, square.mean(2), rtol=1e-5)


def test_times_are_distributed_as_said():
  draws = flow.draw_times(jax.random.key(0), (20_000,), times='uniform')
  quantiles = np.quantile(draws, [0.1, 0.5, 0.9])
  np.testing.assert_allclose(quantiles, [0.1, 0.5, 0.9], atol=0.02)
  draws = flow.draw_times(jax.random.key(0), (20_000,), mean=0.5, deviation=2.0)
  logit = np.log(draws / (1 - draws))
  np.testing.assert_allclose([logit.mean(), logit.std()], [0.5, 2], atol=0.05)
  with pytest.raises(ValueError, match='logit_normal'):
    flow.draw_times(jax.random.key(0), (1,), times='cosine')


def test_schedules():
  times = flow.FlowSampler(steps=4).times
  np.testing.assert_allclose(times, [1, 0.75, 0.5, 0.25, 0])
  times = flow.FlowSampler(steps=4, shift=3.0).times
  np.testing.assert_allclose(times, [1, 0.9, 0.75, 0.5, 0])


@pytest.mark.parametrize('method, order', [('euler', 1), ('heun', 2)])
def test_the_error_falls_with_the_order_of_the_method(method, order):
  # dx / dt = x from time 1 to 0 has the solution x / e.
  noise = draw(2, 3)
  errors = []
  for steps in (16, 32):
    sampler = flow.FlowSampler(steps=steps, method=method)
    out = flow.sample(sampler, lambda x, t: x, noise)
    errors.append(np.abs(out - noise / np.e).max())
  np.testing.assert_allclose(errors[0] / errors[1], 2**order, rtol=0.15)


def test_a_perfect_network_gives_the_data_in_one_step():
  clean, noise = draw(2, 5), draw(2, 5)
  out = flow.sample(
    flow.FlowSampler(steps=1), lambda x, t: noise - clean, noise
  )
  np.testing.assert_allclose(out, clean, atol=1e-6)


def oracle(c, u, scale, average):
  """APG for one sample, as algorithm 1 has it, in float64."""
  c, u = np.float64(c), np.float64(u)
  average = c - u - 0.5 * average
  diff = average * min(1, 2.5 / np.linalg.norm(average))
  unit = c / np.linalg.norm(c)
  across = diff - (diff * unit).sum() * unit
  return c + (scale - 1) * across, average


@pytest.mark.parametrize('size', [0.05, 3.0])  # Below the threshold and above.
def test_projected_guidance_keeps_its_state_per_sample(size):
  steps = [(draw(2, 3, 4), draw(2, 3, 4)) for _ in range(3)]
  state = jnp.zeros((2, 3, 4))
  states = [np.zeros((3, 4))] * 2
  for c, step in steps:
    u = c + size * step
    got, state = flow.projected_guidance(c, u, 7.5, state)
    for i in range(2):
      want, states[i] = oracle(c[i], u[i], 7.5, states[i])
      np.testing.assert_allclose(got[i], want, rtol=1e-4, atol=1e-4)


def guided(sampler, noise):
  """A network whose two halves go to 1 and to 0."""

  def predict(x, t):
    own, none = jnp.split(x, 2)
    return jnp.concatenate([own - 1, none]) / jnp.maximum(t, 1e-3)

  return flow.sample(sampler, predict, noise)


def test_guidance_in_its_interval_and_none():
  noise = draw(2, 3)
  plain = flow.FlowSampler(steps=4, guidance=1.0)
  np.testing.assert_allclose(guided(plain, noise), np.ones((2, 3)), atol=1e-5)
  far = guided(plain.replace(guidance=3.0), noise)
  np.testing.assert_allclose(far, np.full((2, 3), 3.0), atol=1e-5)
  # Each step of this flow takes the same share of what is left, so that the
  # last one alone decides where it ends.
  none = guided(plain.replace(guidance=3.0, interval=(2.0, 3.0)), noise)
  np.testing.assert_allclose(none, np.ones((2, 3)), atol=1e-5)
  late = guided(plain.replace(guidance=3.0, interval=(0.0, 0.5)), noise)
  np.testing.assert_allclose(late, np.full((2, 3), 3.0), atol=1e-5)
  early = guided(plain.replace(guidance=3.0, interval=(0.6, 1.0)), noise)
  np.testing.assert_allclose(early, np.ones((2, 3)), atol=1e-5)


def test_one_program_for_all_scales():
  run = jax.jit(guided)
  noise = draw(2, 3)
  for scale in (1.0, 2.0):
    sampler = flow.FlowSampler(steps=3, guidance=scale, rule='projected')
    assert np.isfinite(run(sampler, noise)).all()
  assert run._cache_size() == 1


def test_projected_guidance_has_gradients_where_there_is_no_difference():
  c = jnp.ones((1, 3))
  loss = lambda u: jnp.sum(
    flow.projected_guidance(c, u, 3.0, jnp.zeros((1, 3)))[0]
  )
  assert np.isfinite(jax.grad(loss)(c)).all()


@pytest.mark.parametrize(
  'fields, match',
  [
    ({'steps': 0}, '1 step or more'),
    ({'rule': 'none'}, "'plain' or 'projected'"),
    ({'method': 'rk4'}, "'euler' or 'heun'"),
    ({'shift': 0.0}, 'above 0'),
  ],
)
def test_samplers_that_cannot_be_are_refused(fields, match):
  with pytest.raises(UserError, match=match):
    flow.FlowSampler(**fields)
