"""What tokens cost, on a code whose quality is known."""

import jax.numpy as jnp
import numpy as np

from tokpress_jax.metrics import bits_per_pixel, psnr, rate_distortion


def test_bits_per_pixel():
  assert bits_per_pixel(16, 8.0, (8, 8)) == 2.0
  np.testing.assert_allclose(
    bits_per_pixel(jnp.array([4, 32]), 12.0, (16, 8)), [0.375, 3.0]
  )


def test_rate_distortion_of_a_code_that_keeps_rows():
  images = jnp.asarray(np.random.default_rng(0).uniform(size=(5, 4, 4, 1)))

  def keep_rows(images, tokens):
    return images * (jnp.arange(4) < tokens).reshape(1, 4, 1, 1)

  points = rate_distortion(
    images, keep_rows, (1, 2, 4), bits_per_token=32, quality=psnr
  )
  assert [p.tokens for p in points] == [1, 2, 4]
  assert [p.bits for p in points] == [32.0, 64.0, 128.0]
  assert [p.bits_per_pixel for p in points] == [2.0, 4.0, 8.0]
  assert points[0].quality < points[1].quality < points[2].quality == 100
