"""Both published forms against NumPy, and how much they disagree."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.quantize import FSQ_LEVELS, FSQConfig, fsq
from tokpress_jax.quantize.fsq import fsq_lookup

FORMS = ('google', 'lucidrains')


def _oracle(z, levels, form):
  """One token and one feature at a time, in float64."""
  codes = np.zeros(len(z), int)
  values = np.zeros(z.shape)
  for n, token in enumerate(np.float64(z)):
    place = 1
    for d, size in enumerate(levels):
      half = (size - 1) * (0.999 if form == 'google' else 1.001) / 2
      offset = 0.0 if size % 2 else 0.5
      ratio = offset / half
      shift = math.tan(ratio) if form == 'google' else math.atanh(ratio)
      level = round(math.tanh(token[d] + shift) * half - offset)
      codes[n] += (level + size // 2) * place
      place *= size
      values[n, d] = level / (size // 2)
  return codes, values


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('levels', [(8, 5, 4), (2, 3, 7), (16,)])
def test_matches_numpy(form, levels):
  z = np.random.default_rng(0).normal(size=(300, len(levels))) * 2
  out = fsq(z.astype(np.float32), levels, form=form)
  codes, values = _oracle(z.astype(np.float32), levels, form)
  np.testing.assert_array_equal(out.codes[:, 0], codes)
  np.testing.assert_allclose(out.embeddings, values, atol=1e-6)


def test_the_two_forms_disagree_on_one_code_in_fifty_five():
  z = jax.random.normal(jax.random.key(0), (100_000, 6))
  levels = (8, 8, 8, 5, 5, 5)
  a, b = (fsq(z, levels, form=form).codes for form in FORMS)
  assert 0.0165 < float(jnp.mean(a != b)) < 0.0205  # Measured: 1.84%.


@pytest.mark.parametrize('form', FORMS)
def test_every_code_is_reached_and_found_again(form):
  levels = (4, 3, 2)
  codes = jnp.arange(24)[:, None]
  vectors = fsq_lookup(codes, levels)
  assert len(np.unique(vectors, axis=0)) == 24
  z = np.random.default_rng(0).normal(size=(5000, 3)) * 3
  out = fsq(z, levels, form=form)
  np.testing.assert_array_equal(np.unique(out.codes), np.arange(24))
  np.testing.assert_array_equal(fsq_lookup(out.codes, levels), out.embeddings)


def test_extreme_bfloat16_inputs_stay_in_range():
  levels = FSQ_LEVELS[2**16]
  z = jnp.linspace(-100, 100, 401, dtype=jnp.bfloat16)[:, None]
  out = fsq(jnp.broadcast_to(z, (401, 6)), levels)
  assert out.codes.min() == 0 and out.codes.max() == math.prod(levels) - 1


def test_gradient_is_that_of_the_bound():
  z = jnp.array([[0.3, -0.2]])
  grad = jax.grad(lambda z: fsq(z, (5, 5)).embeddings.sum())(z)
  half = 4 * 0.999 / 2
  expected = (1 - np.tanh(np.asarray(z)) ** 2) * half / 2
  np.testing.assert_allclose(grad, expected, rtol=1e-5)


def test_levels_have_about_the_size_they_are_listed_under():
  for size, levels in FSQ_LEVELS.items():
    assert 0.9 < FSQConfig(levels=levels).codebook_size / size < 1.1


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'levels': (8, 1)}, 'at least 2'),
    ({'levels': ()}, 'at least 2'),
    ({'levels': (256,) * 4}, 'do not fit int32'),
    ({'form': 'paper'}, "form='paper' is not one of"),
  ],
)
def test_bad_config(fields, message):
  with pytest.raises(ValueError, match=message):
    FSQConfig(**fields)
