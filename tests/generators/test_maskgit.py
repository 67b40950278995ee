"""Masked generators: equal to the official code, and what their loop promises.

`tests/golden/make_maskgit.py` says what made the golden file.
"""

import functools

import jax
import jax.numpy as jnp
import maskgit_case
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax import generators, types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import maskgit_keys, sampling
from tokpress_jax.io import keymap

C = maskgit_case.SMALL
CODES, LABELS, NOISE = maskgit_case.inputs(C)
SAMPLERS = {
  'bert': generators.Sampler(
    guidance=2.0,
    schedule='ramp',
    temperature=2.0,
    choice_temperature=2.0,
    annealing='noise+softmax',
    steps=4,
  ),
  'uvit': generators.Sampler(
    guidance=3.0,
    schedule='power-cosine',
    temperature=1.5,
    choice_temperature=1.5,
    annealing='noise',
    steps=6,
  ),
}
every_network = pytest.mark.parametrize('network', maskgit_case.NETWORKS)


@functools.cache
def golden():
  with np.load(maskgit_case.GOLDEN / 'maskgit.npz') as file:
    return dict(file)


@functools.cache
def official(network):
  shapes = unpack(golden()[f'{network}_shapes'])
  config = maskgit_keys.config_of(shapes)
  tensors = redraw(shapes, rules=maskgit_case.RULES)
  variables = keymap.convert(
    maskgit_keys.prepare(tensors),
    maskgit_keys.RULES,
    maskgit_keys.expected(config),
  )
  spec = types.Spec(name='', family='generator', config=config)
  return types.Loaded(config.build(), variables, spec)


@every_network
def test_config_is_read_off_the_shapes(network):
  config = official(network).module.config
  assert (config.codebook_size, config.num_classes) == (24, 5)
  assert (config.tokens, config.width, config.heads) == (9, 64, 16)
  assert config.depth == (2 if network == 'bert' else 3)
  assert config.mlp_ratio == 1.5 and config.network == network


@every_network
def test_logits_are_the_official_ones(network):
  theirs = golden()[f'{network}_logits']
  ours = jax.jit(official(network).module.apply)(
    official(network).variables, CODES, LABELS
  )
  assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()


@every_network
def test_codes_drawn_with_the_same_noise_are_the_official_ones(
  network, monkeypatch
):
  rng = jax.random.key(0)
  steps = jnp.arange(len(NOISE))
  keys = jax.random.key_data(
    jax.vmap(lambda i: jax.random.fold_in(rng, i))(steps)
  )

  def noise(key, rows, slots, size):
    assert (rows, len(slots), size) == NOISE[0, :2].shape
    same = (keys == jax.random.key_data(key)[None]).all(axis=1)
    return jnp.asarray(NOISE[:, :2])[jnp.argmax(same)]

  monkeypatch.setattr(sampling, 'token_gumbel', noise)
  drawn = generators.sample(
    official(network),
    jnp.asarray(LABELS[:2]),
    rng=rng,
    sampler=SAMPLERS[network],
  )
  np.testing.assert_array_equal(
    drawn.codes[..., 0], golden()[f'{network}_codes']
  )


def test_masks_follow_the_schedule():
  config = generators.MaskGITConfig(
    codebook_size=7, tokens=20, schedule='cosine'
  )
  codes = jnp.tile(jnp.arange(20)[None, :, None] % 7, (4000, 1, 1))
  inputs = config.train_inputs(codes, None, jax.random.key(0))
  hidden = np.asarray(config.counted(inputs))
  np.testing.assert_array_equal(
    np.where(hidden, codes[..., 0], inputs), codes[..., 0]
  )
  count = hidden.sum(axis=1)
  assert count.min() == 1 and count.max() == 20
  # E cos(pi t / 2) = 2 / pi, and no slot is hidden more often than another.
  np.testing.assert_allclose(count.mean() / 20, 2 / np.pi, atol=0.02)
  np.testing.assert_allclose(hidden.mean(axis=0), 2 / np.pi, atol=0.04)


def test_given_codes_stay_and_steps_may_change():
  model = official('uvit')
  given = jnp.where(jnp.arange(9)[None] < 4, CODES[:2] % 24, -1)
  for steps in (1, 9, 64):
    drawn = generators.sample(
      model,
      jnp.array([0, 1]),
      rng=jax.random.key(1),
      sampler=generators.Sampler(steps=steps),
      forced=given,
    )
    codes = drawn.codes[..., 0]
    np.testing.assert_array_equal(codes[:, :4], given[:, :4])
    assert codes.min() >= 0 and codes.max() < 24


def test_bad_settings_are_refused_in_words():
  refuse = lambda message: pytest.raises(UserError, match=message)
  with refuse('odd depth, got 4'):
    generators.MaskGITConfig(network='uvit', depth=4)
  with refuse('steps must be at least 1, got 0'):
    generators.Sampler(steps=0)
  with refuse("unknown annealing 'warm'; try one of none, noise"):
    generators.Sampler(annealing='warm')
  with refuse('choice_temperature must not be negative'):
    generators.Sampler(choice_temperature=-1.0)
  with pytest.raises(ValueError, match='10 codes do not fit a generator of 9'):
    official('bert')(jnp.zeros((1, 10), jnp.int32), jnp.zeros(1, jnp.int32))
