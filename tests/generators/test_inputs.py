import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax.generators import inputs, order


def test_started_and_shifted():
  x = jnp.arange(6.0).reshape(1, 3, 2)
  start = -jnp.ones((1, 1, 2))
  np.testing.assert_array_equal(
    inputs.shifted(start, x)[0], [[-1, -1], [0, 1], [2, 3]]
  )
  assert inputs.started(start, x).shape == (1, 4, 2)


def test_masked_takes_one_token_or_one_per_position():
  x = jnp.ones((1, 3, 2))
  known = jnp.array([[True, False, True]])
  one = inputs.masked(x, known, jnp.array([5.0, 6.0]))
  np.testing.assert_array_equal(one[0], [[1, 1], [5, 6], [1, 1]])
  own = inputs.masked(x, known, jnp.arange(6.0).reshape(3, 2))
  np.testing.assert_array_equal(own[0], [[1, 1], [2, 3], [1, 1]])


def test_noised_uses_each_blocks_time():
  rank = order.cells((2, 4), (2, 2)).rank
  x, noise = jnp.ones((1, 8, 1)), 3 * jnp.ones((1, 8, 1))
  time = jnp.array([[0.0, 0.5]])
  got = inputs.noised(x, noise, time, rank)[0, :, 0]
  np.testing.assert_array_equal(got, [1, 1, 2, 2, 1, 1, 2, 2])


def test_nar_parents_mix_as_a_loop_does():
  h, w, vocab = 3, 4, 5
  outputs = np.random.default_rng(0).normal(size=(2, 1 + h * w, 2, vocab))
  slot, weight = inputs.parents((h, w))
  got = inputs.from_parents(jnp.asarray(outputs), slot, weight)
  for b in range(2):
    for r in range(h):
      for c in range(w):
        right = outputs[b, 1 + r * w + c - 1, 0] if c else None
        below = outputs[b, 1 + (r - 1) * w + c, 1] if r else None
        if r == c == 0:
          want = (outputs[b, 0, 0] + outputs[b, 0, 1]) / 2
        elif right is None or below is None:
          want = below if right is None else right
        else:
          want = (right + below) / 2
        np.testing.assert_allclose(got[b, r * w + c], want, atol=1e-6)


def test_level_queries_follow_the_tokens():
  x = jnp.zeros((2, 4, 3), jnp.bfloat16)
  got = inputs.with_queries(x, jnp.ones((4, 3)))
  assert got.shape == (2, 8, 3) and got.dtype == jnp.bfloat16
  np.testing.assert_array_equal(got[:, :, 0], [[0] * 4 + [1] * 4] * 2)


def test_inputs_have_gradients():
  rank = order.raster(2).rank
  grad = jax.grad(
    lambda x: inputs.noised(x, 2 * x, jnp.array([[0.0, 1.0]]), rank).sum()
  )(jnp.ones((1, 2, 1)))
  np.testing.assert_array_equal(grad[0, :, 0], [1, 2])
