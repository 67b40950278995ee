"""Each generator's attention mask at published size, against plain loops.

The oracle is written from the papers' descriptions, position by position; the
library's row composes the parts of `order.py` and `visibility.py`.
"""

import jax
import numpy as np
import pytest

from tokpress_jax.generators import order, visibility

VAR_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


def fill(n, sees):
  return np.array([[bool(sees(q, k)) for k in range(n)] for q in range(n)])


def scale_of(slot):
  for index, side in enumerate(VAR_SIDES):
    if slot < side * side:
      return index, slot // side, slot % side
    slot -= side * side
  raise AssertionError


def var_oracle():
  where = [scale_of(i)[0] for i in range(680)]
  return fill(680, lambda q, k: where[k] <= where[q])


def mvar_oracle():
  """Own scale only; 7 x 7 keys shifted inside the border in the last two."""
  where = [scale_of(i) for i in range(680)]

  def near(a, b, side):
    first = min(max(a - 3, 0), side - 7)
    return first <= b < first + 7

  def sees(q, k):
    (sq, rq, cq), (sk, rk, ck) = where[q], where[k]
    if sq != sk:
      return False
    side = VAR_SIDES[sq]
    return sq < 8 or (near(rq, rk, side) and near(cq, ck, side))

  return fill(680, sees)


def xar_oracle():
  """16 x 16 latents in 2 x 2 clusters of 8 x 8; slots are in cell order."""
  return fill(256, lambda q, k: k // 64 <= q // 64)


def nar_oracle():
  """A class token, then raster positions that see all not farther off."""

  def distance(slot):
    return -1 if slot == 0 else (slot - 1) // 16 + (slot - 1) % 16

  return fill(257, lambda q, k: distance(k) <= distance(q))


def mar_oracle(known):
  """Encoder keys: 64 copies of the class and the tokens already known."""
  return np.array([[k < 64 or known[k - 64] for k in range(320)]] * 320)


def himar_oracle(pivots, tokens):
  """64 buffer, 64 pivots, 256 tokens, in one row in both phases."""
  seen = [True] * 64 + list(pivots) + list(tokens)
  return np.array([seen] * 384)


def har_oracle():
  """Class token, three single tokens, then levels of twice what is known."""
  ends = [1, 2, 3, 4, 8, 16, 32, 64, 128]
  level = lambda slot: next(i for i, end in enumerate(ends) if slot < end)
  return fill(128, lambda q, k: level(k) <= level(q))


def causal_oracle(n):
  return fill(n, lambda q, k: k <= q)


def build(name):
  """The library's mask [N, N] of the generators with a fixed order."""
  causal = lambda o: visibility.causal_blocks(o.rank)
  match name:
    case 'VAR':
      return causal(order.blocks(tuple(s * s for s in VAR_SIDES)))
    case 'MVAR':
      return visibility.windowed_blocks(
        tuple((s, s) for s in VAR_SIDES), (None,) * 8 + (7, 7)
      )
    case 'xAR':
      cells = order.cells((16, 16), (8, 8))
      slots = cells.permutation
      return causal(cells)[np.ix_(slots, slots)]
    case 'NAR':
      near_to_far = order.diagonals((16, 16))
      return causal(order.chain(order.blocks((1,)), near_to_far))
    case 'MaskGIT':
      return visibility.everything(257, 257)
    case 'HAR':
      return causal(order.blocks((1, 1, 1, 1, 4, 8, 16, 32, 64)))
    case 'raster':
      return causal(order.chain(order.blocks((1,)), order.raster(255)))
  raise AssertionError(name)


ORACLES = {
  'VAR': var_oracle,
  'MVAR': mvar_oracle,
  'xAR': xar_oracle,
  'NAR': nar_oracle,
  'MaskGIT': lambda: np.ones((257, 257), bool),
  'HAR': har_oracle,
  'raster': lambda: causal_oracle(256),
}


@pytest.mark.parametrize('name', ORACLES)
def test_fixed_order_mask_equals_oracle(name):
  mask, expected = build(name), ORACLES[name]()
  assert mask.dtype == bool
  np.testing.assert_array_equal(mask, expected)


def test_density_of_var_and_mvar_is_the_published_one():
  # 61.95% and, with whole scales, 23.9% of all pairs.
  assert build('VAR').mean() == pytest.approx(0.6195, abs=1e-4)
  whole = visibility.own_block(
    order.blocks(tuple(s**2 for s in VAR_SIDES)).rank
  )
  assert whole.mean() == pytest.approx(0.239, abs=1e-3)


def test_rar_mask_is_causal_in_each_samples_permutation():
  # Two given slots (class token, condition), then 256 permuted positions.
  permuted = order.random(jax.random.key(0), 2, (1,) * 256)
  joint = order.chain(order.blocks((1, 1)), permuted)
  mask = np.asarray(visibility.causal_blocks(joint.rank))
  slots = np.asarray(joint.permutation)
  assert mask.shape == (2, 258, 258)
  for b in range(2):
    assert sorted(slots[b]) == list(range(258))
    assert list(slots[b, :2]) == [0, 1]
    in_sequence = mask[b][np.ix_(slots[b], slots[b])]
    np.testing.assert_array_equal(in_sequence, causal_oracle(258))
  assert (slots[0] != slots[1]).any()


@pytest.mark.parametrize('step', [0, 1, 40, 63])
def test_mar_encoder_sees_the_buffer_and_the_known_tokens(step):
  counts = order.reveal_counts(256, 64)
  random = order.random(jax.random.key(1), 2, counts)
  joint = order.chain(order.blocks((64,)), random)
  mask = np.asarray(visibility.revealed(joint.rank, 1 + step))
  mask = np.broadcast_to(mask, (2, 320, 320))
  places = np.asarray(random.permutation)
  for b in range(2):
    known = np.zeros(256, bool)
    known[places[b, : sum(counts[:step])]] = True
    np.testing.assert_array_equal(mask[b], mar_oracle(known))
  # The paper's cosine: floor(256 cos(pi / 2 (k + 1) / 64)) stay masked.
  assert 256 - sum(counts[:40]) == np.floor(256 * np.cos(np.pi / 2 * 40 / 64))


@pytest.mark.parametrize('step', [0, 10, 31, 32, 34])
def test_himar_phases_share_one_order(step):
  pivot_counts = order.reveal_counts(64, 32)
  token_counts = order.reveal_counts(256, 4)
  pivots = order.random(jax.random.key(2), 1, pivot_counts)
  tokens = order.random(jax.random.key(3), 1, token_counts)
  joint = order.chain(order.blocks((64,)), pivots, tokens)
  mask = np.asarray(visibility.revealed(joint.rank, 1 + step))[0]
  known_pivots, known_tokens = np.zeros(64, bool), np.zeros(256, bool)
  first = np.asarray(pivots.permutation)[0]
  second = np.asarray(tokens.permutation)[0]
  if step < 32:  # phase 1: every token of the large grid is masked
    known_pivots[first[: sum(pivot_counts[:step])]] = True
  else:  # phase 2: all pivots are given
    known_pivots[:] = True
    known_tokens[second[: sum(token_counts[: step - 32])]] = True
  np.testing.assert_array_equal(
    np.broadcast_to(mask, (384, 384)),
    himar_oracle(known_pivots, known_tokens),
  )
  decoder = visibility.everything(384, 384)
  assert decoder.shape == (384, 384) and decoder.all()


def test_window_refuses_what_does_not_fit():
  with pytest.raises(ValueError, match='odd kernel of at most 5'):
    visibility.window((5, 6), 7)
  with pytest.raises(ValueError, match='as many kernels'):
    visibility.windowed_blocks(((1, 1), (2, 2)), (None,))
