"""Bits, packing and entropies against sums over the whole codebook."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.quantize import LFQConfig, lfq
from tokpress_jax.quantize.lfq import bit_entropies, pack_bits, unpack_bits


def _z(tokens=40, bits=6):
  z = np.random.default_rng(0).normal(size=(tokens, bits))
  return (0.02 * z).astype(np.float32)


def _entropies(z, scale, temperature):
  """A softmax over all 2^D corners, as the papers write it."""
  corners = np.array(list(itertools.product([-1, 1], repeat=z.shape[1])))
  logits = 2 * np.float64(z) @ (corners.T * scale) / temperature
  p = np.exp(logits - logits.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  sample = -(p * np.log(p + 1e-300)).sum(1).mean()
  mean = p.mean(0)
  return sample, -(mean * np.log(mean + 1e-300)).sum()


def test_factorised_entropies_equal_the_whole_softmax():
  z, scale, temperature = _z(), 0.7, 0.05
  expected = _entropies(z, scale, temperature)
  found = bit_entropies(4 * scale / temperature * z, group=6)
  np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_grouped_mean_entropy_is_the_sum_of_the_groups():
  z = _z()
  logits = jnp.asarray(100 * z)
  parts = [_entropies(100 * z[:, s], 0.5, 2.0)[1] for s in (slice(4), [4, 5])]
  _, mean = bit_entropies(logits, group=4)
  np.testing.assert_allclose(mean, sum(parts), rtol=1e-5)
  assert mean >= bit_entropies(logits, group=6)[1]


def test_losses():
  z = _z()
  config = LFQConfig(
    bits=6, entropy=0.3, diversity=2.0, commitment=0.5, temperature=0.05
  )
  out = lfq(z, config)
  sample, mean = _entropies(z, 1.0, 0.05)
  np.testing.assert_allclose(
    out.losses['entropy'], 0.3 * (sample - 2 * mean), rtol=1e-5
  )
  sign = np.where(z > 0, 1, -1)
  np.testing.assert_allclose(
    out.losses['commitment'], 0.5 * ((z - sign) ** 2).mean(), rtol=1e-5
  )
  assert set(lfq(z, LFQConfig(bits=6, entropy=0.0)).losses) == {'commitment'}


def test_sphere_gives_unit_vectors():
  out = lfq(_z(), LFQConfig(bits=6, norm='sphere'))
  np.testing.assert_allclose(
    np.linalg.norm(out.embeddings, axis=-1), 1.0, rtol=1e-6
  )
  assert (np.sign(out.embeddings) == np.where(_z() > 0, 1, -1)).all()


@pytest.mark.parametrize(('order', 'code'), [('big', 6), ('little', 3)])
def test_bit_order(order, code):
  config = LFQConfig(bits=3, bit_order=order)
  z = jnp.array([[0.1, 0.2, 0.0]])  # Zero is negative: bits 1, 1, 0.
  assert lfq(z, config).codes.tolist() == [[code]]
  codes = jnp.arange(8)[:, None]
  bits = unpack_bits(codes, config)
  np.testing.assert_array_equal(pack_bits(bits, config), codes)


def test_56_bits_travel_as_four_codes():
  config = LFQConfig(bits=56, code_bits=14, entropy_bits=7)
  z = np.random.default_rng(0).normal(size=(5, 56)).astype(np.float32)
  out = lfq(z, config)
  assert out.codes.shape == (5, 4) and out.stats.count.shape == (4, 2**14)
  found = config.build().apply({}, out.codes, method='lookup')
  np.testing.assert_array_equal(found, out.embeddings)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'bits': 32}, 'at most 24'),
    ({'bits': 10, 'code_bits': 4}, 'must divide'),
    ({'norm': 'l2'}, "norm='l2' is not one of"),
    ({'bit_order': 'msb'}, "bit_order='msb' is not one of"),
  ],
)
def test_bad_config(fields, message):
  with pytest.raises(ValueError, match=message):
    LFQConfig(**fields)


def test_wrong_number_of_features():
  with pytest.raises(ValueError, match='one feature for each bit; got'):
    lfq(jnp.zeros((2, 5)), LFQConfig(bits=6))
