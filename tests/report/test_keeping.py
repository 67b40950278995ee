"""What is left of a tower's output, against sums by hand."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tokpress_jax import types
from tokpress_jax.report import keeping


def test_measures_are_those_of_a_loop():
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, 6, 4)).astype(np.float32)
  tokens = types.Tokens.create(jnp.asarray(x))
  kept = dataclasses.replace(
    types.Tokens.create(jnp.asarray(x[:, [1, 4, 0]])),
    valid=jnp.array([[True, True, False]]),
  )
  unit = x[0] / np.linalg.norm(x[0], axis=1, keepdims=True)
  cos = unit @ unit[[1, 4]].T
  weight = np.exp(20 * cos) / np.exp(20 * cos).sum(axis=1, keepdims=True)
  error = np.square(x[0] - weight @ x[0, [1, 4]]).sum()
  want = (
    cos.max(axis=1).mean(),
    1 - unit[1] @ unit[4],
    error / np.square(x[0] - x[0].mean(axis=0)).sum(),
  )
  got = keeping.measures(tokens, kept)
  np.testing.assert_allclose(np.ravel(got), want, rtol=1e-4)
