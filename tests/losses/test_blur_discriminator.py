"""TiTok's discriminator against the official one, by a golden file."""

import jax
import jax.numpy as jnp
import make_discriminator as made
import numpy as np
import pytest
from redraw import redraw, unpack

from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.losses import BlurDiscriminatorConfig
from tokpress_jax.losses.blur_discriminator import blurred_half

_PLACES = {
  r'block_in\.0': 'conv_in',
  r'blocks\.(\d)\.0': r'conv_\1',
  r'to_logits\.0': 'conv_mid',
  r'to_logits\.2': 'conv_out',
}
RULES = (
  *(
    keymap.Rule(rf'{theirs}\.weight', f'params/{ours}/kernel', keymap.CONV)
    for theirs, ours in _PLACES.items()
  ),
  *(
    keymap.Rule(rf'{theirs}\.bias', f'params/{ours}/bias')
    for theirs, ours in _PLACES.items()
  ),
  keymap.Rule(r'blocks\.(\d)\.2\.weight', r'params/norm_\1/scale'),
  keymap.Rule(r'blocks\.(\d)\.2\.bias', r'params/norm_\1/bias'),
)


def test_equals_the_official_one():
  """See tests/golden/make_discriminator.py."""
  with np.load(made.OUT) as golden:
    want, shapes = golden['logits'], unpack(golden['shapes'])
  module = BlurDiscriminatorConfig(width=32, layers=2).build()
  pixels = 2 * np.moveaxis(made.images(), 1, -1) - 1
  expected = jax.eval_shape(module.init, jax.random.key(0), pixels)
  weights = redraw(shapes, rules=made.RULES)
  variables = keymap.convert(weights, RULES, expected)
  found = jax.jit(module.apply)(variables, pixels)
  assert np.abs(found - want).max() < 2e-5 * want.std()


def test_the_default_has_the_official_size():
  module = BlurDiscriminatorConfig().build()
  image = jnp.zeros((1, 256, 256, 3))
  shapes = jax.eval_shape(module.init, jax.random.key(0), image)
  # 3 > 128 > 128 > 256 > 512 > 512 > 1, with norms of 128, 256 and 512.
  assert sum(x.size for x in jax.tree.leaves(shapes)) == sum(
    (
      75 * 128 + 128,
      9 * 128 * 128 + 3 * 128,
      9 * 128 * 256 + 3 * 256,
      9 * 256 * 512 + 3 * 512,
      512 * 512 + 512,
      25 * 512 + 1,
    )
  )


def test_blur_is_a_convolution():
  x = np.random.default_rng(0).normal(size=(2, 6, 4, 3)).astype(np.float32)
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  row = np.array([1, 3, 3, 1]) / 8
  want = [
    [
      np.einsum('i,j,bijc->bc', row, row, padded[:, i : i + 4, j : j + 4])
      for j in range(0, 4, 2)
    ]
    for i in range(0, 6, 2)
  ]
  want = np.moveaxis(np.array(want), 2, 0)
  np.testing.assert_allclose(blurred_half(jnp.asarray(x)), want, atol=1e-6)


def test_unfit_images():
  config = BlurDiscriminatorConfig(width=4, layers=1, places=4, groups=2)
  config.check(24)
  with pytest.raises(UserError, match=r'sides of 8, 16, .* not 20'):
    config.check(20)
  with pytest.raises(ValueError, match='multiples of 8'):
    config.build().init(jax.random.key(0), jnp.zeros((1, 16, 20, 3)))
  with pytest.raises(ValueError, match='at least 1'):
    BlurDiscriminatorConfig(places=0)
