"""Length policies, rounding, and the samplers of nested dropout."""

import warnings

import jax
import jax.numpy as jnp
import lpips_weights
import numpy as np
import pytest

from tokpress_jax import losses
from tokpress_jax.errors import UserError
from tokpress_jax.io import keymap
from tokpress_jax.tokenizers import (
  Coded,
  Fixed,
  Prefix,
  Quality,
  legal_length,
  minus_lpips,
  prefix_mask,
  round_down,
  sample_lengths,
)

SCALES = (1, 5, 14, 30)
LINE = tuple(range(1, 13))


def coded(batch, bounds=SCALES, decode=None):
  images = jnp.zeros((batch, 4, 4, 1))
  return Coded(images=images, boundaries=bounds, decode=decode)


@pytest.mark.parametrize('bounds', [SCALES, LINE, (4, 8), (1,)])
def test_rounding_down_equals_loops(bounds):
  budgets = np.arange(bounds[-1] + 5)
  want = [
    max([b for b in bounds if b <= n], default=bounds[0]) for n in budgets
  ]
  got = jax.jit(lambda n: round_down(n, bounds))(budgets)
  np.testing.assert_array_equal(got, want)


def test_legal_budgets_are_kept_in_silence():
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert [legal_length(n, SCALES) for n in SCALES] == list(SCALES)
    assert legal_length(7, LINE) == 7


def test_a_budget_between_boundaries_is_rounded_down_and_said():
  with pytest.warns(UserWarning, match=r'using 5 \(legal: 1, 5, 14, 30\)'):
    assert legal_length(13, SCALES) == 5


@pytest.mark.parametrize('budget', [-1, 0, 31])
def test_budgets_that_do_not_fit_are_refused(budget):
  with pytest.raises(UserError, match=f'of {budget} tokens .* uses 1 to 30'):
    legal_length(budget, SCALES)
  with pytest.raises(UserError, match='does not fit'):
    Fixed(tokens=budget).lengths(coded(2))


def test_policies():
  np.testing.assert_array_equal(Fixed().lengths(coded(2)), [30, 30])
  np.testing.assert_array_equal(Fixed(tokens=5).lengths(coded(2)), [5, 5])
  got = jax.jit(lambda n: Prefix(n).lengths(coded(4)))(
    jnp.array([0, 6, 14, 99])
  )
  assert got.dtype == jnp.int32
  np.testing.assert_array_equal(got, [1, 5, 14, 30])
  with pytest.raises(ValueError, match=r'one length per image, \[3\]'):
    Prefix(jnp.array([1, 5])).lengths(coded(3))


def test_policies_pass_through_jit():
  """Their arrays are traced: new ones compile nothing."""
  lengths = lambda policy: policy.lengths(coded(2, decode=brighter))
  run = jax.jit(lengths)
  first = Prefix(jnp.array([2, 14])), Prefix(jnp.array([1, 99]))
  np.testing.assert_array_equal([run(p) for p in first], [[1, 14], [1, 30]])
  assert run._cache_size() == 1
  np.testing.assert_array_equal(run(Fixed(tokens=5)), [5, 5])
  for target, want in ((2.0, 5), (14.0, 14), (99.0, 30)):
    quality = Quality(target=target, measure=first_pixel, search='scan')
    np.testing.assert_array_equal(run(quality), [want, want])
  assert run._cache_size() == 3
  with pytest.raises(ValueError, match=r'whole numbers .* got float32'):
    run(Prefix(jnp.array([1.0, 2.5])))


def brighter(n):
  """Images as bright as they are long."""
  return jnp.zeros((2, 4, 4, 1)) + n[:, None, None, None]


def table_decoder(quality, bounds):
  """Images whose first pixel says how good a length is for each row."""
  rows, index = jnp.arange(len(quality)), np.zeros(bounds[-1] + 1, int)
  index[list(bounds)] = np.arange(len(bounds))

  def decode(n):
    found = jnp.asarray(quality)[rows, jnp.asarray(index)[n]]
    return jnp.zeros((len(rows), 4, 4, 1)) + found[:, None, None, None]

  return decode


def first_pixel(decoded, images):
  assert decoded.shape == images.shape
  return decoded[:, 0, 0, 0]


@pytest.mark.parametrize('bounds', [SCALES, LINE, (3, 8), (7,)])
@pytest.mark.parametrize('search', ['bisect', 'scan'])
def test_the_shortest_prefix_that_is_good_enough(bounds, search):
  rng = np.random.default_rng(len(bounds))
  quality = rng.normal(size=(40, len(bounds)))
  if search == 'bisect':
    quality = np.sort(quality, axis=1)
  choose = jax.jit(
    lambda target: Quality(
      target=target, measure=first_pixel, search=search
    ).lengths(coded(40, bounds, table_decoder(quality, bounds)))
  )
  seen = set()
  for target in (-9.0, -0.5, 0.2, 0.9, 9.0):
    got = choose(target)
    want = [
      min(np.array(bounds)[row >= target], default=bounds[-1])
      for row in quality
    ]
    np.testing.assert_array_equal(got, want)
    seen |= set(want)
  assert len(seen) > len(bounds) / 2


def test_quality_is_psnr_unless_told_and_may_differ_by_row():
  noise = {1: 0.4, 5: 0.2, 14: 0.1, 30: 0.05}

  def decode(n):
    error = sum(jnp.where(n == k, v, 0.0) for k, v in noise.items())
    return jnp.zeros((3, 4, 4, 1)) + error[:, None, None, None]

  # An error of e in [-1, 1] is e / 2 in [0, 1]: -20 log10(e / 2) dB.
  targets = jnp.array([13.9, 20.1, 60.0])
  got = Quality(target=targets).lengths(coded(3, SCALES, decode))
  np.testing.assert_array_equal(got, [1, 14, 30])
  with pytest.raises(UserError, match='look must not be negative, got -1'):
    Quality(target=1.0, look=-1)
  with pytest.raises(UserError, match="'bisect' or 'scan', got 'all'"):
    Quality(target=1.0, search='all')


def test_the_shortest_prefix_that_looks_alike():
  """By LPIPS, of more and more of an image's rows."""
  weights = keymap.convert(
    lpips_weights.released(), losses.lpips.RULES, losses.lpips.expected()
  )
  images = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3), minval=-1)
  images = images * jnp.array([0.2, 0.5, 1.0])[:, None, None, None]
  bounds = (2, 5, 9, 12, 16)
  rows = jnp.arange(16)[None, :, None, None]
  decode = lambda n: jnp.where(rows < n[:, None, None, None], images, 0.0)
  distance = jax.jit(losses.LPIPS().apply)
  table = np.stack(
    [distance(weights, decode(jnp.full((3,), n)), images) for n in bounds], 1
  )
  assert (np.diff(table, axis=1) < 0).all() and table[:, -1].max() < 1e-6
  limit = np.float32(np.sort(table.ravel())[6:8].mean())

  @jax.jit
  def choose(weights, limit):
    policy = Quality(target=-limit, measure=minus_lpips(weights))
    return policy.lengths(
      Coded(images=images, boundaries=bounds, decode=decode)
    )

  with pytest.raises(UserError, match=r'load_lpips\(path\); got str'):
    minus_lpips('lpips.safetensors')
  want = np.array(bounds)[(table <= limit).argmax(axis=1)]
  assert len(set(want)) > 1
  np.testing.assert_array_equal(choose(weights, limit), want)


def test_prefix_mask():
  got = prefix_mask(jnp.array([0, 2, 3]), 3)
  np.testing.assert_array_equal(got, [[0, 0, 0], [1, 1, 0], [1, 1, 1]])


def draw(bounds, seed=0, size=4000, **options):
  return np.asarray(
    sample_lengths(jax.random.key(seed), size, bounds, **options)
  )


def shares(lengths):
  values, counts = np.unique(lengths, return_counts=True)
  return dict(zip(values.tolist(), counts / lengths.size, strict=True))


@pytest.mark.parametrize(
  'bounds, sampler, legal',
  [
    (SCALES, 'uniform', SCALES),
    (LINE, 'uniform', LINE),
    (LINE, 'powers', (1, 2, 4, 8, 12)),
    (SCALES, 'powers', (1, 5, 14, 30)),  # 8 and 16 become 5 and 14
    ((3, 9), 'powers', (3, 9)),
    (LINE, 'none', (12,)),
  ],
)
def test_samplers_draw_their_lengths_evenly(bounds, sampler, legal):
  found = shares(draw(bounds, sampler=sampler))
  assert tuple(found) == legal
  np.testing.assert_allclose(list(found.values()), 1 / len(legal), atol=0.03)


def test_one_length_for_a_batch_is_drawn_evenly():
  rows = [draw(LINE, sampler='batch', seed=i, size=4) for i in range(300)]
  assert all(len(set(row.tolist())) == 1 for row in rows)
  found = shares(np.array([row[0] for row in rows]))
  np.testing.assert_allclose(list(found.values()), 1 / len(LINE), atol=0.05)


def test_full_keeps_the_whole_row_so_often():
  found = shares(draw(SCALES, full=0.5))
  np.testing.assert_allclose(found.pop(30), 0.5 + 0.5 / 4, atol=0.03)
  np.testing.assert_allclose(list(found.values()), 0.5 / 4, atol=0.03)
  assert shares(draw(SCALES, full=1.0, size=50)) == {30: 1.0}


def test_lengths_are_fixed_by_their_key():
  first = draw(LINE, size=50)
  assert first.dtype == np.int32
  np.testing.assert_array_equal(first, draw(LINE, size=50))
  assert (first != draw(LINE, seed=1, size=50)).any()


def test_unknown_sampler_is_refused():
  with pytest.raises(ValueError, match="'poisson'; try 'uniform', 'batch'"):
    draw(LINE, sampler='poisson')
