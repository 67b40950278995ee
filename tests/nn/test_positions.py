"""Position codes against NumPy, and what they must not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import nn

RNG = np.random.default_rng(0)
LINE = np.arange(5)[:, None]
GRID = nn.grid_positions(2, 3)


def test_grid_is_in_raster_order():
  want = [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
  np.testing.assert_array_equal(GRID, want)
  assert nn.grid_positions(2, 3, 4).shape == (24, 3)
  np.testing.assert_array_equal(nn.grid_positions(5), LINE)


def angles(position, features, base):
  """Angles of one coordinate: features / 2 of them."""
  half = features // 2
  return [position / base ** (i / half) for i in range(half)]


@pytest.mark.parametrize('where', [LINE, GRID], ids=['1d', '2d'])
def test_sincos_equals_oracle(where):
  width, base = 16, 100.0
  axes = where.shape[1]
  want = [
    [
      f(a)
      for x in token
      for f in (np.sin, np.cos)
      for a in angles(x, width // axes, base)
    ]
    for token in where
  ]
  got = nn.sincos(where, width, base=base)
  assert got.dtype == jnp.float32
  np.testing.assert_allclose(got, want, atol=1e-6)


def turn(x, where, layout, base):
  """Turns one token's features as complex numbers."""
  phases = [a for p in where for a in angles(p, len(x) // len(where), base)]
  if layout == 'interleaved':
    pairs = x[0::2] + 1j * x[1::2]
  else:
    pairs = x[: len(x) // 2] + 1j * x[len(x) // 2 :]
  turned = pairs * np.exp(1j * np.array(phases))
  out = np.empty(len(x))
  if layout == 'interleaved':
    out[0::2], out[1::2] = turned.real, turned.imag
  else:
    out[: len(x) // 2], out[len(x) // 2 :] = turned.real, turned.imag
  return out


@pytest.mark.parametrize('layout', ['interleaved', 'half'])
@pytest.mark.parametrize('where', [LINE, GRID], ids=['1d', '2d'])
def test_rotation_equals_oracle(where, layout):
  x = RNG.normal(size=(2, 3, len(where), 8)).astype(np.float32)
  want = np.empty_like(x)
  for b, a, t in np.ndindex(*x.shape[:3]):
    want[b, a, t] = turn(x[b, a, t], where[t], layout, 50.0)
  code = nn.rotation(where, 8, base=50.0, layout=layout)
  np.testing.assert_allclose(nn.rotate(x, code), want, atol=1e-5)


@pytest.mark.parametrize('layout', ['interleaved', 'half'])
def test_only_the_distance_counts(layout):
  q, k = (jnp.asarray(RNG.normal(size=(1, 1, 6, 8))) for _ in range(2))

  def logits(where):
    code = nn.rotation(where, 8, layout=layout)
    q_, k_ = nn.rotate(q, code), nn.rotate(k, code)
    return q_ @ jnp.swapaxes(k_, -1, -2)

  np.testing.assert_allclose(
    logits(GRID), logits(GRID + np.array([[7, 2]])), atol=1e-5
  )
  stretched = np.abs(logits(GRID) - logits(GRID * np.array([[1, 2]])))
  assert stretched.max() > 0.1


def test_tokens_keep_their_own_positions():
  """Rotating permuted tokens is permuting rotated ones, row by row."""
  x = jnp.asarray(RNG.normal(size=(2, 3, 6, 8)), jnp.float32)
  order = np.stack([RNG.permutation(6) for _ in range(2)])
  shuffled = jnp.take_along_axis(x, order[:, None, :, None], axis=2)
  got = nn.rotate(shuffled, nn.rotation(GRID[order], 8))
  want = nn.rotate(x, nn.rotation(GRID, 8))
  want = jnp.take_along_axis(want, order[:, None, :, None], axis=2)
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_rotation_keeps_dtype_and_works_in_float32():
  x = jnp.asarray(RNG.normal(size=(1, 1, 5, 8)), jnp.bfloat16)
  where = LINE + 10_000  # not a bfloat16
  got = nn.rotate(x, nn.rotation(where, 8))
  assert got.dtype == jnp.bfloat16
  want = nn.rotate(x.astype(jnp.float32), nn.rotation(where, 8))
  np.testing.assert_allclose(np.asarray(got, np.float32), want, atol=0.02)


def test_widths_must_divide():
  with pytest.raises(ValueError, match='2 axes need a width divisible by 4'):
    nn.sincos(GRID, 6)
  with pytest.raises(ValueError, match='a head divisible by 4, got 6 features'):
    nn.rotation(GRID, 6)


def test_learned_table_is_looked_up():
  module = nn.LearnedPositions(5, 4, std=0.5, dtype=jnp.bfloat16)
  variables = module.init(jax.random.key(0))
  table = variables['params']['table']
  assert table.shape == (5, 4) and table.dtype == jnp.float32
  whole = module.apply(variables)
  assert whole.dtype == jnp.bfloat16
  np.testing.assert_array_equal(whole, table.astype(jnp.bfloat16))
  for index in (np.array([[3, 0], [1, 1]]), slice(1, 3)):
    np.testing.assert_array_equal(module.apply(variables, index), whole[index])


def test_sectioned_axes_share_one_row_of_rates():
  where = np.array([[2, 3, 5], [0, 7, 1]])
  code = nn.sectioned_rotation(where, (1, 2, 1), base=100.0)
  rates = 100.0 ** -(np.arange(4) / 4)
  for t, (time, row, column) in enumerate(where):
    angle = np.array([time, row, row, column]) * rates
    np.testing.assert_allclose(code.cos[t], np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(code.sin[t], np.sin(angle), atol=1e-6)
  # One position on all axes is the plain rotary code.
  same = np.arange(6)[:, None]
  plain = nn.rotation(same, 8, layout='half')
  spread = nn.sectioned_rotation(np.repeat(same, 3, 1), (1, 2, 1))
  np.testing.assert_allclose(plain.cos, spread.cos, atol=1e-6)
  with pytest.raises(ValueError, match='3 axes need as many sections'):
    nn.sectioned_rotation(where, (2, 2))


def test_sections_are_split_or_refused():
  want = (2,) * 8 + (3,) * 16
  assert nn.split_sections((16, 24, 24), 8) == want
  with pytest.raises(ValueError, match=r'5 positions .*\[16, 24, 24\]'):
    nn.split_sections((16, 24, 24), 5)


@pytest.mark.parametrize('layout', ['interleaved', 'half'])
def test_keys_are_turned_from_old_positions_to_new(layout):
  x = jnp.asarray(RNG.normal(size=(1, 2, 3, 8)), jnp.float32)
  old = nn.rotation(np.array([[2], [9], [40]]), 8, layout=layout)
  new = nn.rotation(np.array([[0], [1], [2]]), 8, layout=layout)
  got = nn.rotate(nn.rotate(x, old), nn.turn(old, new))
  np.testing.assert_allclose(got, nn.rotate(x, new), atol=1e-5)
  other = nn.rotation(LINE[:3], 8, layout='half')
  if layout == 'interleaved':
    with pytest.raises(ValueError, match='layouts differ'):
      nn.turn(old, other)
