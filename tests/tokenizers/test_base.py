"""What `Tokenizer` does for methods that draw, select or encode again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_tokenizers

from tokpress_jax import tokenizers
from tokpress_jax.errors import UserError


def _toy(**fields):
  return toy_tokenizers.SlotConfig(**fields).build().bind({})


IMAGES = jnp.zeros((3, 2, 2, 1))


def test_images_are_encoded_again_at_the_length_that_the_policy_chose():
  lengths = jnp.array([1, 4, 2])
  encoded = _toy().encode(IMAGES, policy=tokenizers.Prefix(lengths))
  np.testing.assert_array_equal(encoded.codes[:, 0, 0], lengths)
  # A policy that decodes sees what each length would give: slots 0 ... k - 1
  # have the mean (k - 1) / 2, in 8ths.
  measure = lambda x, _: x[:, 0, 0, 0]
  policy = tokenizers.Quality(target=1 / 8, measure=measure)
  encoded = _toy().encode(IMAGES, policy=policy)
  np.testing.assert_array_equal(encoded.length, 3)
  np.testing.assert_array_equal(encoded.codes[:, 0, 0], 3)


def test_positions_go_to_the_decoder():
  toy = _toy()
  encoded = toy.encode(IMAGES, policy=tokenizers.Fixed(tokens=2))
  moved = dataclasses.replace(
    encoded,
    positions=jnp.broadcast_to(jnp.array([3, 1, 0, 0]), (3, 4))[..., None],
  )
  np.testing.assert_allclose(toy.decode(encoded), 0.5 / 8)
  np.testing.assert_allclose(toy.decode(moved), 2 / 8)


def test_noise_is_the_same_for_all_unless_there_is_a_key():
  toy = _toy(random=0.5)
  encoded = toy.encode(IMAGES)
  plain = toy.decode(encoded)
  assert len(np.unique(plain)) == 1
  np.testing.assert_array_equal(plain, toy.decode(encoded))
  keyed = toy.decode(encoded, rng=jax.random.key(1))
  assert len(np.unique(keyed)) == 3
  # An image's own key gives the same image in another batch.
  keys = jax.random.split(jax.random.key(1), 3)
  one = jax.tree.map(lambda x: x[1:2], encoded)
  np.testing.assert_array_equal(toy.decode(one, rng=keys[1:2]), keyed[1:2])
  twice = toy.decode(encoded, rng=jax.random.key(1), sampler=2)
  assert (twice > keyed).all()
  with pytest.raises(UserError, match='each of the 3 rows'):
    toy.decode(encoded, rng=keys[:2])


def test_what_a_tokenizer_does_not_take_is_refused():
  with pytest.raises(UserError, match='draws nothing'):
    _toy().decode_codes(jnp.zeros((1, 4, 1), int), rng=jax.random.key(0))
  config = tokenizers.OneDConfig(
    image_size=4, patch=2, width=8, heads=2, encoder_depth=1, decoder_depth=1
  )
  module = config.build()
  codes = jnp.zeros((1, 32, 1), int)
  variables = module.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))
  with pytest.raises(UserError, match='lie in their slots'):
    module.apply(variables, codes, positions=codes, method='decode_codes')


@pytest.mark.parametrize(
  ('policy', 'hint'),
  [
    (2, r'got 2; give Fixed\(tokens=2\)'),
    (0.05, r'got 0\.05; give Quality\(target=...\) or Halting\(target=0\.05\)'),
    ('all', "got 'all'"),
    (tokenizers.Fixed, 'a length policy is Fixed, Prefix, Quality or Halting'),
  ],
)
def test_what_is_no_policy(policy, hint):
  with pytest.raises(UserError, match=hint):
    _toy().encode(IMAGES, policy=policy)


def test_what_is_no_key():
  with pytest.raises(UserError, match='are not drawn at random; leave out rng'):
    _toy().encode(IMAGES, rng=0)
  toy = _toy(random=0.5)
  encoded = toy.encode(IMAGES)
  for rng in (0, jax.random.PRNGKey(0), 'seed'):
    with pytest.raises(UserError, match='rng must be a typed key, as jax'):
      toy.decode(encoded, rng=rng)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (
      jnp.full((3, 2, 2, 1), 255.0),
      'got values up to 255; give images / 127.5',
    ),
    (jnp.zeros((3, 2, 2, 1), jnp.uint8), 'floats in .-1, 1., got uint8'),
    (IMAGES.at[1].set(jnp.nan), r'images \[1\] hold NaN or infinity'),
    ([[0.5]], 'an array of floats in .-1, 1., got list'),
    (IMAGES[0], r'takes images \[B, 2, 2, 1\].*got \[2, 2, 1\]'),
  ],
)
def test_what_are_no_images(images, message):
  with pytest.raises(UserError, match=message):
    _toy().encode(images)
  # A little outside is noise or a filter's overshoot.
  _toy().encode(IMAGES + 1.5)
