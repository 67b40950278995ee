"""The game's losses against plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.losses import (
  Lecam,
  PatchDiscriminatorConfig,
  adaptive_weight,
  discriminator_loss,
  generator_loss,
  logit_sums,
  with_gradient,
)

GAMES = ('hinge', 'vanilla', 'non_saturating')
RNG = np.random.default_rng(0)
REAL = RNG.normal(size=(4, 3, 2)).astype(np.float32) * 2
FAKE = RNG.normal(size=(4, 3, 2)).astype(np.float32) * 2
MASK = np.array([True, False, True, True])


def _sigmoid(x):
  return 1 / (1 + np.exp(-np.float64(x)))


@pytest.mark.parametrize('game', GAMES)
@pytest.mark.parametrize('mask', [None, MASK])
def test_both_sides_match_numpy(game, mask):
  real, fake = (x if mask is None else x[mask] for x in (REAL, FAKE))
  if game == 'hinge':
    want = np.maximum(1 - real, 0).mean() + np.maximum(1 + fake, 0).mean()
  else:
    p, q = _sigmoid(real), _sigmoid(fake)
    want = -np.log(p).mean() - np.log(1 - q).mean()
  found = discriminator_loss(REAL, FAKE, game=game, mask=mask)
  np.testing.assert_allclose(found, want / 2, rtol=1e-5)
  want = -np.log(_sigmoid(fake)) if game == 'non_saturating' else -fake
  found = generator_loss(FAKE, game=game, mask=mask)
  np.testing.assert_allclose(found, want.mean(), rtol=1e-5)


def test_unknown_game():
  with pytest.raises(ValueError, match="game='wgan' is not one of"):
    generator_loss(FAKE, game='wgan')
  with pytest.raises(ValueError, match="game='wgan' is not one of"):
    discriminator_loss(REAL, FAKE, game='wgan')


def test_adaptive_weight():
  a, b = REAL, 0.1 * FAKE
  want = np.linalg.norm(a) / (np.linalg.norm(b) + 1e-4)
  np.testing.assert_allclose(adaptive_weight(a, b), want, rtol=1e-5)
  assert adaptive_weight(1e6 * a, 0 * b) == 1e4
  assert adaptive_weight(0 * a, b) == 0
  assert adaptive_weight(a, b, maximum=2.0) == 2
  assert not jax.grad(lambda x: adaptive_weight(x, b))(jnp.asarray(a)).any()


def test_a_loss_with_a_given_gradient():
  loss = lambda x: jnp.sum(jnp.sin(x)) ** 2
  value, gradient = jax.value_and_grad(loss)(jnp.asarray(REAL))
  inner = lambda y: 3 * with_gradient(value, jnp.tanh(y), 2 * gradient)
  found, slope = jax.value_and_grad(inner)(jnp.asarray(REAL))
  assert found == 3 * value  # to the last bit
  want = 6 * gradient * (1 - np.tanh(REAL) ** 2)
  np.testing.assert_allclose(slope, want, rtol=1e-5)


def test_lecam_over_three_batches():
  decay, real, fake, weight = 0.9, 0.0, 0.0, 0.0
  state = Lecam.create()
  assert state.regularizer(REAL, FAKE) == 0
  for i in range(3):
    x, y = REAL + i, FAKE - i
    sums = logit_sums(x, y, mask=jnp.asarray(MASK))
    # Microbatches add up.
    parts = [
      logit_sums(x[i : i + 2], y[i : i + 2], mask=jnp.asarray(MASK[i : i + 2]))
      for i in (0, 2)
    ]
    jax.tree.map(
      lambda a, b, c: np.testing.assert_allclose(a, b + c, rtol=1e-5),
      sums,
      *parts,
    )
    state = state.update(sums, decay=decay)
    real = decay * real + (1 - decay) * x[MASK].mean()
    fake = decay * fake + (1 - decay) * y[MASK].mean()
    weight = decay * weight + (1 - decay)
    if i == 0:  # The first average is the first batch's mean.
      np.testing.assert_allclose(
        state.real / state.weight, x[MASK].mean(), rtol=1e-5
      )
  np.testing.assert_allclose(
    (state.real, state.fake, state.weight), (real, fake, weight), rtol=1e-5
  )
  above = np.maximum(REAL[MASK] - fake / weight, 0) ** 2
  below = np.maximum(real / weight - FAKE[MASK], 0) ** 2
  np.testing.assert_allclose(
    state.regularizer(REAL, FAKE, mask=MASK),
    above.mean() + below.mean(),
    rtol=1e-5,
  )
  none = logit_sums(REAL, FAKE, mask=jnp.zeros(4, bool))
  assert state.update(none, decay=decay) == state


def _discriminator(norm, size=16):
  config = PatchDiscriminatorConfig(width=8, layers=2, norm=norm, groups=4)
  images = jax.random.normal(jax.random.key(0), (4, size, size, 3))
  module = config.build()
  variables = jax.jit(module.init)(jax.random.key(1), images)
  variables = jax.tree.map(
    lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape),
    variables,
  )
  return module, variables, images


@pytest.mark.parametrize('norm', ['group', 'batch', 'none'])
def test_discriminator_sees_patches_and_no_padding(norm):
  module, variables, images = _discriminator(norm)
  run = jax.jit(lambda x, m: module.apply(variables, x, mask=m))
  mask = jnp.asarray(MASK)
  a = run(images, mask)
  assert a.shape == (4, 2, 2) and a.dtype == jnp.float32
  junk = run(images.at[1].set(100.0), mask)
  np.testing.assert_allclose(a[MASK], junk[MASK], atol=1e-5)
  alone = run(images, jnp.arange(4) == 0)
  near = np.allclose(alone[0], a[0], atol=1e-5)
  assert near == (norm != 'batch')  # only batch norm ties images together


def test_discriminator_of_small_images():
  module, variables, images = _discriminator('none')
  assert module.config.smallest == 12
  with pytest.raises(ValueError, match=r'layers=2 takes .* of 12 pixels'):
    module.apply(variables, images[:, :11])
  with pytest.raises(ValueError, match='layers and groups of at least 1'):
    PatchDiscriminatorConfig(layers=0)
