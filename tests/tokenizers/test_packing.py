"""Buckets and packed rows hold every token once, and nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn, tokenizers, types
from tokpress_jax.errors import UserError

LENGTH = np.array([3, 6, 1, 2, 6, 4, 0])
TOKENS = np.random.default_rng(0).normal(size=(7, 6, 2)).astype(np.float32)


def test_bucket_is_the_smallest_that_fits():
  assert tokenizers.bucket(jnp.array([3, 5, 1]), (16, 4, 8)) == 8
  assert tokenizers.bucket([4], (16, 4, 8)) == 4
  with pytest.raises(UserError, match=r'of 17 tokens fits none .*\(4, 8, 16\)'):
    tokenizers.bucket([17], (16, 4, 8))


def test_shortened_tokens_decode_the_same():
  config = tokenizers.OneDConfig(
    image_size=8,
    channels=1,
    patch=4,
    tokens=6,
    width=16,
    heads=2,
    encoder_depth=1,
    decoder_depth=1,
  )
  module = config.build()
  images = jax.random.uniform(jax.random.key(0), (3, 8, 8, 1), minval=-1)
  variables = jax.jit(module.init)(jax.random.key(1), images)
  policy = tokenizers.Prefix(jnp.array([2, 4, 1]))
  encoded = module.apply(variables, images, policy=policy, method='encode')
  size = tokenizers.bucket(encoded.length, (2, 4, 6))
  short = tokenizers.shorten(encoded, size)
  assert short.codes.shape == (3, 4, 1) and short.valid.shape == (3, 4)
  with pytest.raises(UserError, match=r'of 4 tokens fits none .*\(2,\)'):
    tokenizers.shorten(encoded, 2)
  with pytest.raises(ValueError, match='decode_codes takes codes'):
    module.apply(variables, encoded.codes, method='decode')
  decode = lambda x: module.apply(variables, x, method='decode')
  np.testing.assert_allclose(decode(short), decode(encoded), atol=1e-5)


def test_ten_mixtures_of_lengths_compile_once_per_bucket():
  run = jax.jit(lambda x: jnp.sum(x.codes, axis=1))
  rng, sizes = np.random.default_rng(1), set()
  for longest in (1, 3, 8, 16, 2, 5, 7, 4, 11, 13):
    length = rng.integers(1, longest + 1, size=5)
    encoded = types.Encoded(
      codes=jnp.asarray(rng.integers(9, size=(5, 16, 1))),
      embeddings=None,
      valid=tokenizers.prefix_mask(jnp.asarray(length), 16),
      length=jnp.asarray(length),
      positions=None,
      image_size=jnp.full((5, 2), 8),
    )
    size = tokenizers.bucket(length, (4, 8, 16))
    sizes.add(size)
    run(tokenizers.shorten(encoded, size))
  assert run._cache_size() == len(sizes) == 3


def test_packed_rows_come_apart_again():
  packed = tokenizers.pack(TOKENS, LENGTH, capacity=8)
  # 6 + 2, 6 + 1, 4 + 3: as few rows as 22 tokens need.
  assert packed.tokens.shape == (3, 8, 2)
  assert np.sum(np.asarray(packed.image) >= 0) == LENGTH.sum()
  padded = np.asarray(packed.image) < 0
  assert not np.asarray(packed.tokens)[padded].any()
  seen = np.arange(6)[None] < LENGTH[:, None]
  want = np.where(seen[..., None], TOKENS, 0)
  again = tokenizers.unpack(packed, packed.tokens, capacity=6)
  np.testing.assert_array_equal(again, want)
  slots = tokenizers.unpack(packed, packed.slot, capacity=6)
  np.testing.assert_array_equal(slots, np.where(seen, np.arange(6)[None], 0))


def test_packed_attention_equals_that_of_each_image():
  packed = tokenizers.pack(TOKENS, LENGTH, capacity=8)
  attend = lambda x, mask: nn.dot_product_attention(
    x[:, None], 2 * x[:, None], x[:, None], mask=mask
  )[:, 0]
  rows = attend(packed.tokens, tokenizers.within_images(packed))
  got = tokenizers.unpack(packed, rows, capacity=6)
  for image, n in enumerate(LENGTH):
    if n:
      alone = attend(jnp.asarray(TOKENS[image : image + 1, :n]), None)[0]
      np.testing.assert_allclose(got[image, :n], alone, atol=1e-6)


def test_rows_are_not_packed_inside_a_program():
  pack = lambda x, n: tokenizers.pack(x, n, capacity=8)
  with pytest.raises(UserError, match='call bucket and pack outside jit'):
    jax.jit(pack)(TOKENS, LENGTH)


def test_an_image_longer_than_a_row_is_refused():
  with pytest.raises(UserError, match='of 6 tokens does not fit a row of 5'):
    tokenizers.pack(TOKENS, LENGTH, capacity=5)
