"""Crops in one row: every slot and signal stays with its crop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.types import Signals, Tap, Tokens

B, G, N, D, A = 2, 3, 4, 5, 2


def case():
  draw = lambda *shape: np.random.default_rng(len(shape)).normal(size=shape)
  rows = B * G
  tokens = Tokens.create(
    draw(rows, N, D),
    valid=np.arange(N) < np.array([[4], [3], [4]] * B),
    grids=((1, 2, 2),),
  )
  tap = Tap('attention_row', -2)
  signals = Signals(
    keys=draw(rows, A, N, 3),
    attention_row=draw(rows, A, N),
    before=draw(rows, N, D),
    text=draw(rows, 2, D),
    rng=jax.random.split(jax.random.key(0), rows),
    taps={tap: draw(rows, A, N)},
  )
  return tokens, signals, tap


def test_slots_and_signals_stay_with_their_crops():
  tokens, signals, tap = case()
  there = jnp.array([[True, True, True], [True, False, True]])
  join = jax.jit(lambda t, s, v: pruners.join_crops(t, s, crops=G, valid=v))
  got, moved = join(tokens, signals, there)
  for b, g, n in np.ndindex(B, G, N):
    row, slot = b * G + g, g * N + n
    valid = bool(there[b, g] and tokens.valid[row, n])
    assert got.valid[b, slot] == valid
    assert got.owner[b, slot] == (g if valid else -1)
    assert got.mass[b, slot] == valid
    same = np.testing.assert_array_equal
    same(got.features[b, slot], tokens.features[row, n])
    same(got.positions[b, slot], tokens.positions[row, n])
    same(moved.keys[b, :, slot], np.float32(signals.keys[row, :, n]))
    same(moved.before[b, slot], np.float32(signals.before[row, n]))
    for name in ('attention_row', tap):
      want = np.float32(signals.get(name)[row, :, n])
      same(moved.get(name)[b, :, slot], want)
  np.testing.assert_array_equal(got.source_count, [11, 8])
  np.testing.assert_array_equal(moved.text, np.float32(signals.text[::G]))
  assert moved.rng.shape == (B,) and got.source_slots == G * N
  assert got.grids == ((1, 2, 2),) * G


def test_crops_that_are_shown_in_part():
  """By patches: a crop with none is not there, others count what they show."""
  tokens, *_ = case()
  there = np.ones((B, G, N), bool)
  there[0, 1, 2:], there[1, 2] = False, False
  got, _ = pruners.join_crops(tokens, crops=G, valid=jnp.asarray(there))
  valid = (np.asarray(tokens.valid).reshape(B, G, N) & there).reshape(B, -1)
  np.testing.assert_array_equal(got.valid, valid)
  np.testing.assert_array_equal(got.mass, valid)
  np.testing.assert_array_equal(got.owner >= 0, valid)
  np.testing.assert_array_equal(got.source_count, [10, 7])


def test_rows_that_are_no_images_are_refused():
  tokens, *_ = case()
  with pytest.raises(UserError, match='6 rows are no whole number of images'):
    pruners.join_crops(tokens, crops=4)
  with pytest.raises(UserError, match=r'valid must be \[2, 3\].*got \(3, 2\)'):
    pruners.join_crops(tokens, crops=3, valid=jnp.ones((3, 2), bool))
