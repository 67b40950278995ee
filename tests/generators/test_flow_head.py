"""A flow head in a masked generator's loop, on flows that are known."""

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import flow
from tokpress_jax.generators import heads, refine, sampling

B, N, C, D = 3, 6, 2, 4
COUNTS = (1, 2, 3)


class Known(heads.FlowHead):
  """Goes straight to the first features of the token."""

  def embed_features(self, features):
    return features

  def embed_time(self, time):
    return jnp.concatenate([jnp.zeros(D), time[None]])

  def denoise(self, noised, cond):
    t = jnp.maximum(cond[..., -1:], 1e-3)
    return (noised - cond[..., :C]) / t


def test_a_perfect_head_draws_what_the_trunk_says():
  target = jax.random.normal(jax.random.key(1), (N, D))

  def see(values, known):
    del known
    rows = jnp.broadcast_to(target[None], (len(values), N, D))
    half = jnp.arange(len(values)) >= B  # Without the condition: the opposite.
    rows = jnp.where(half[:, None, None], -rows, rows)
    return jnp.pad(rows, ((0, 0), (0, 0), (0, 1)))

  draw = lambda guidance: refine.refine_vectors(
    see,
    Known(channels=C, width=8, depth=1),
    rng=jax.random.key(0),
    sampler=sampling.Sampler(guidance=guidance),
    counts=COUNTS,
    batch=B,
    flow_sampler=flow.FlowSampler(steps=4),
  )
  want = np.broadcast_to(target[:, :C], (B, N, C))
  np.testing.assert_allclose(draw(0.0), want, atol=1e-5)
  # (1 + 1) c - 1 u with u = -c, at the step where all guidance is there.
  weights = sampling.Sampler(guidance=1.0).weights(
    len(COUNTS), done=np.cumsum(COUNTS) / N
  )
  got = np.abs(draw(1.0) / want)
  allowed = np.asarray(1 + 2 * weights)
  near = np.abs(got[..., None] - allowed).min(-1)
  assert near.max() < 0.7 and got.max() > 1.5


def test_a_head_has_velocities_and_learns_from_everything():
  head = heads.FlowHead(channels=C, width=8, depth=2)
  x = jax.random.normal(jax.random.key(0), (B, N, C))
  t = jnp.full((B, N), 0.3)
  features = jax.random.normal(jax.random.key(1), (B, N, D))
  variables = head.init(jax.random.key(2), x, t, features)
  leaves, treedef = jax.tree.flatten(variables)
  rng = np.random.default_rng(0)
  drawn = [jnp.asarray(0.5 * rng.normal(size=a.shape), a.dtype) for a in leaves]
  variables = jax.tree.unflatten(treedef, drawn)
  noise = jax.random.normal(jax.random.key(3), x.shape)

  def loss(variables):
    out = head.apply(variables, flow.interpolate(x, noise, t), t, features)
    assert out.shape == (B, N, C)
    return flow.velocity_losses(out, x, noise, sample_axes=2).mean()

  for grad in jax.tree.leaves(jax.grad(loss)(variables)):
    assert np.isfinite(grad).all() and np.any(grad)
  # Times are from 0 to 1: they are told apart.
  early = head.apply(variables, jnp.float32(0.1), method='embed_time')
  late = head.apply(variables, jnp.float32(0.2), method='embed_time')
  assert np.abs(early - late).max() > 0.01
