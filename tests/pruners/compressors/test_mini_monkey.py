"""Mini-Monkey's scale compression against NumPy, row by row."""

import functools

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors
from tokpress_jax.types import Tokens

# Valid slots of each row, and where its fine tokens begin and end.
ROWS = ((16, 2, 10), (12, 3, 8), (16, 0, 7))
SLOTS, HEADS, KEPT = 16, 3, 12


def make():
  at = np.arange(SLOTS)[None]
  lengths, starts, stops = (
    np.array(x)[:, None] for x in zip(*ROWS, strict=True)
  )
  valid = at < lengths
  logits = case.draw('monkey', len(ROWS), HEADS, SLOTS, SLOTS, scale=2)
  seen = (at <= at.T)[None, None] & valid[:, None, None]
  attention = np.where(seen, np.exp(logits), 0)
  attention /= np.maximum(attention.sum(-1, keepdims=True), 1e-9)
  tokens = Tokens.create(
    jnp.asarray(case.draw('monkey_x', len(ROWS), SLOTS, 4)),
    valid=jnp.asarray(valid),
  )
  fine = (at >= starts) & (at < stops)
  return tokens, attention, jnp.asarray(fine)


def by_hand(row, attention):
  """The slots that stay, of one row."""
  length, start, stop = ROWS[row]
  paid = attention[row][:, stop:length, start:stop].mean(axis=1).mean(axis=0)
  best = np.argsort(-paid)[: int(0.5 * (stop - start))] + start
  return [*range(start), *sorted(best), *range(stop, length)]


@functools.partial(jax.jit, static_argnames='capacity')
def compressed(tokens, attention, fine, *, capacity=KEPT, rows=None):
  return compressors.scale_compression(
    tokens, attention, fine=fine, capacity=capacity, rows=rows
  )


def test_the_kept_tokens_are_the_official_ones():
  c = case.MONKEY
  count = c['crop'] * c['crops'][0] * c['crops'][1]
  at, stop = np.arange(c['length']), c['start'] + count
  fine = np.broadcast_to((at >= c['start']) & (at < stop), (2, c['length']))
  result = compressed(
    Tokens.create(jnp.zeros((2, c['length'], 1))),
    jnp.asarray(case.monkey_attention()),
    jnp.asarray(fine),
    capacity=c['length'] - count // 2,
  )
  with np.load(case.GOLDEN) as file:
    for row in range(2):
      want = file[f'monkey/{row}'].tolist()
      assert stop not in want  # which the official code forgets
      assert result.index[row].tolist() == sorted([*want, stop])


def test_the_half_that_is_read_stays():
  tokens, attention, fine = make()
  result = compressed(tokens, jnp.asarray(attention), fine)
  assert result.index.shape == (len(ROWS), KEPT)
  for row in range(len(ROWS)):
    want = by_hand(row, attention)
    got = np.asarray(result.index[row])[np.asarray(result.valid[row])]
    assert got.tolist() == want
    places = result.positions[row, : len(want), 0]
    assert places.tolist() == list(range(len(want)))  # counted anew


def test_what_padding_and_rows_before_pay_does_not_count():
  tokens, attention, fine = make()
  junk = np.where(
    np.asarray(compressors.readers(tokens, fine))[:, None, :, None],
    attention,
    7.0,
  )
  a = compressed(tokens, jnp.asarray(attention), fine)
  b = compressed(tokens, jnp.asarray(junk, jnp.float32), fine)
  np.testing.assert_array_equal(a.index, b.index)


def test_the_rows_alone_are_enough():
  tokens, attention, fine = make()
  rows = np.zeros((len(ROWS), 6), bool)
  some = np.zeros((len(ROWS), HEADS, 6, SLOTS), np.float32)
  for i, (length, _, stop) in enumerate(ROWS):
    number = min(length - stop, 6)
    rows[i, :number] = True
    some[i, :, :number] = attention[i, :, stop : stop + number]
  result = compressed(tokens, jnp.asarray(some), fine, rows=jnp.asarray(rows))
  for i, (length, _, stop) in enumerate(ROWS[:2]):
    assert length - stop <= 6
    got = np.asarray(result.index[i])[np.asarray(result.valid[i])]
    assert got.tolist() == by_hand(i, attention)


def test_fine_tokens_go_before_others_where_there_is_no_room():
  tokens, attention, fine = make()
  result = compressed(tokens, jnp.asarray(attention), fine, capacity=10)
  kept = np.asarray(result.index[0])
  assert set(kept) >= {0, 1, *range(10, 16)}
  assert len(set(kept) & set(by_hand(0, attention))) == 10
  assert result.valid[0].all()


def test_features_are_gathered():
  tokens, attention, fine = make()
  result = compressed(tokens, jnp.asarray(attention), fine)
  out = pruners.reduce_tokens(tokens, result)
  want = tokens.features[0][np.array(by_hand(0, attention))]
  np.testing.assert_array_equal(out.features[0, : len(want)], want)


def test_what_does_not_fit_is_refused():
  tokens, attention, fine = make()
  with pytest.raises(UserError, match=r'M=16 and N=16, got \(3, 3, 5, 16\)'):
    compressors.scale_compression(
      tokens, jnp.asarray(attention)[:, :, :5], fine=fine, capacity=8
    )
  with pytest.raises(UserError, match='ratio=0'):
    compressors.scale_compression(
      tokens, jnp.asarray(attention), fine=fine, capacity=8, ratio=0
    )
