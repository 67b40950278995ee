"""Schedules and allocators: their edges, and loops.

What papers print is in test_published_numbers.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.pruners import allocators, schedules


def test_stages_outside_the_stack_are_named():
  with pytest.raises(ValueError, match=r'layers \[32, 40\] are not in 0 to 31'):
    schedules.at_layers({2: 9, 40: 3, 32: 5}, depth=32, tokens=576)


def test_linear_falls_to_the_decimal():
  assert schedules.keep_linear(depth=3, start=1, slope=0.1) == (1, 0.9, 0.8)


def test_sigmoid():
  keep = schedules.keep_sigmoid(
    depth=32, steepness=0.7, middle=12, most=0.9, least=0.1
  )
  layers = np.arange(32)
  want = 0.1 + 0.8 / (1 + np.exp(0.7 * (layers - 12)))
  np.testing.assert_allclose(keep, want, atol=1e-12)
  assert keep[12] == pytest.approx(0.5)
  steep = schedules.keep_sigmoid(depth=3, steepness=1e6, middle=1)
  assert steep == (1, 0.5, 0)


def test_pyramids_that_do_not_fit():
  # A line above all tokens is cut; one below the window becomes even.
  cut = schedules.pyramid(depth=4, tokens=1000, ratio=0.8, window=10)
  assert cut == (990, 863, 737, 610)
  assert schedules.pyramid(depth=3, tokens=100, ratio=0.3) == (30,) * 3


def test_drops_and_removals():
  counts = schedules.drop_all_after(1, depth=4, tokens=9)
  assert counts == (9, 9, 0, 0)
  assert schedules.removals(counts) == (0, 9, 0, 0)
  with pytest.raises(ValueError, match='the counts rise'):
    schedules.removals((3, 4))
  with pytest.raises(ValueError, match=r'\[0, 1\], got \[1.5\]'):
    schedules.to_counts([0.5, 1.5], 10)
  assert schedules.to_counts([0.07, 0.29], 100, minimum=8) == (8, 29)


def fill(weights, total, sizes):
  """Exact split of one row: water is poured until no part overflows."""
  total, full = min(total, sum(sizes)), [n == 0 for n in sizes]
  while True:
    left = total - sum(s for s, f in zip(sizes, full, strict=True) if f)
    share = [0 if f else w for w, f in zip(weights, full, strict=True)]
    if not sum(share):
      share = [0 if f else 1 for f in full]
    quota = [left * w / max(sum(share), 1e-30) for w in share]
    over = [
      not f and q >= s for f, q, s in zip(full, quota, sizes, strict=True)
    ]
    if not any(over):
      break
    full = [f or o for f, o in zip(full, over, strict=True)]
  parts = [
    s if f else int(q) for s, f, q in zip(sizes, full, quota, strict=True)
  ]
  by = sorted(
    (i for i, f in enumerate(full) if not f),
    key=lambda i: parts[i] - quota[i],
  )
  for i in by[: total - sum(parts)]:
    parts[i] += 1
  return parts


def test_exact_splits_equal_the_oracle():
  rng = np.random.default_rng(0)
  sizes = rng.integers(0, 30, (40, 5))
  # Whole weights of which few divide: no quota is within rounding of another.
  weights = rng.integers(0, 50, (40, 5)).astype(np.float32) + 1 / 7
  weights[:3] = 0
  weights[5, 1:] = 0
  total = rng.integers(0, 100, 40)
  run = jax.jit(
    lambda w, t, s: (
      allocators.by_weight(w, total=t, sizes=s),
      allocators.by_weight(w, total=t, sizes=s, rounding='floor'),
    )
  )
  exact, floor = run(weights, total, sizes)
  np.testing.assert_array_equal(
    exact.sum(axis=1), np.minimum(total, sizes.sum(axis=1))
  )
  for row in range(40):
    want = fill(weights[row], int(total[row]), sizes[row].tolist())
    assert exact[row].tolist() == want, row
    weight = weights[row] if weights[row].sum() else np.ones(5)
    whole = min(int(total[row]), int(sizes[row].sum()))
    quota = np.floor(whole * weight / weight.sum() + 1e-5)
    np.testing.assert_array_equal(floor[row], np.minimum(quota, sizes[row]))


def test_even_and_proportional_splits():
  sizes = jnp.array([[4, 10, 10, 1]])
  even = allocators.uniform(total=14, sizes=sizes)
  assert even.tolist() == [[4, 5, 4, 1]]
  shared = allocators.proportional(total=12, sizes=sizes)
  assert shared.tolist() == [[2, 5, 5, 0]]
  floor = allocators.proportional(total=12, sizes=sizes, rounding='floor')
  assert floor.tolist() == [[1, 4, 4, 0]]


def test_crops_by_the_mass_of_the_thumbnail():
  mass = np.array([[3.0, 20, 9, 0], [1, 1, 1, 1]], np.float32)
  sizes = np.array([[576, 576, 400, 0], [576] * 4])
  got = allocators.by_mass(jnp.asarray(mass), ratio=0.25, sizes=sizes)
  p = np.exp(mass[0, :3] / 10) / np.exp(mass[0, :3] / 10).sum()
  want = np.floor(sizes[0, :3] * 0.25 * (1 + p - p.mean()))
  assert got[0].tolist() == [*want, 0]
  assert got[1].tolist() == [144] * 4
  most = allocators.by_mass(jnp.asarray(mass), ratio=1.0, sizes=sizes)
  assert most[0, 1] == 576


def test_crops_by_the_count_of_best_places():
  scores = jnp.array([[5.0, 4, 3, 2, 1, 0, 9, 8]])
  parts = jnp.array([[0, 0, 1, 1, 2, 2, -1, -1]])
  split = functools.partial(
    allocators.by_top_count, scores, parts, marked=3, total=10
  )
  assert split(sizes=jnp.array([[9, 9, 9]])).tolist() == [[6, 3, 0]]
  assert split(sizes=jnp.array([[4, 9, 9]])).tolist() == [[4, 3, 0]]
  exact = split(sizes=jnp.array([[4, 9, 9]]), rounding='exact')
  assert exact.tolist() == [[4, 6, 0]]


def test_heads_compete_for_what_is_not_sure():
  rng = np.random.default_rng(1)
  scores = rng.normal(size=(3, 4, 12)).astype(np.float32)
  scores[:, 0] += 5  # a greedy head
  lengths = (12, 7, 3)
  valid = np.arange(12) < np.array(lengths)[:, None]
  run = jax.jit(
    lambda s, v: allocators.per_head_joint(s, keep=5, valid=v, safeguard=0.4)
  )
  kept = np.asarray(run(scores, valid))
  for row, n in enumerate(lengths):
    keep = min(5, n)
    want = np.zeros((4, 12), bool)
    for head in range(4):
      best = np.argsort(-scores[row, head, :n])
      want[head, best[: int(keep * 0.4)]] = True
    rest = sorted(
      ((h, i) for h in range(4) for i in range(n) if not want[h, i]),
      key=lambda at: -scores[row][at],
    )
    for at in rest[: 4 * keep - want.sum()]:
      want[at] = True
    np.testing.assert_array_equal(kept[row], want)
