import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.generators import sampling


def logits_with_ties(seed=0, rows=40, vocab=57):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(rows, vocab)) * 10.0 ** rng.integers(-3, 3, (rows, 1))
  x = np.where(rng.random(x.shape) < 0.3, np.round(x), x)  # ties, zeros
  x[0] = 0.0
  x[1, ::2] = -0.0
  x[2, 5:] = -np.inf
  return x.astype(np.float32)


@pytest.mark.parametrize('k', [1, 2, 5, 30, 56, 57])
def test_top_k_keeps_the_same_set_as_sorting(k):
  x = logits_with_ties()
  kept = np.isfinite(jax.jit(sampling.top_k)(x, k))  # k is traced
  threshold = np.sort(x, axis=-1)[:, ::-1][:, k - 1 : k]
  np.testing.assert_array_equal(kept, (x >= threshold) & np.isfinite(x))


@pytest.mark.parametrize('p', [0.05, 0.5, 0.9, 0.96, 1.0])
def test_top_p_keeps_the_same_set_as_the_cumulative_sum(p):
  # No ties here: which of two equal codes a sort drops is arbitrary.
  x = np.random.default_rng(1).normal(size=(40, 57)).astype(np.float32) * 3
  kept = np.isfinite(jax.jit(sampling.top_p)(x, p))
  for row, got in zip(x.astype(np.float64), kept, strict=True):
    probs = np.exp(row - row.max())
    probs /= probs.sum()
    ascending = np.argsort(row)
    drop = np.cumsum(probs[ascending]) <= 1 - p
    drop[-1] = False
    want = np.ones(row.size, bool)
    want[ascending[drop]] = False
    np.testing.assert_array_equal(got, want)


def test_top_p_keeps_the_best_code_whatever_p():
  x = jnp.array([[0.0, 3.0, 1.0]])
  assert np.isfinite(sampling.top_p(x, 1e-9)).tolist() == [[False, True, False]]


def test_draw_follows_the_filtered_distribution():
  logits = jnp.log(jnp.array([0.4, 0.3, 0.2, 0.1]))
  logits = jnp.broadcast_to(logits[None], (20_000, 4))
  noise = sampling.token_gumbel(jax.random.key(0), 1, jnp.arange(20_000), 4)
  noise = noise[0]

  def shares(**kwargs):
    codes = sampling.Sampler(**kwargs).draw(logits, noise)
    return np.bincount(codes, minlength=4) / 20_000

  close = lambda a, b: np.testing.assert_allclose(a, b, atol=0.015)
  close(shares(), [0.4, 0.3, 0.2, 0.1])
  close(shares(top_k=2), [4 / 7, 3 / 7, 0, 0])
  close(shares(top_p=0.6), [4 / 7, 3 / 7, 0, 0])
  close(shares(top_k=3, top_p=0.4), [1, 0, 0, 0])  # top-k first: 4/9 >= 0.4
  squares = np.array([16, 9, 4, 1]) / 30
  close(shares(temperature=0.5), squares)
  # Temperature comes before top-p: 25/30 of the mass are in the first two.
  close(shares(temperature=0.5, top_p=0.8), [16 / 25, 9 / 25, 0, 0])
  assert shares(temperature=0.0).tolist() == [1, 0, 0, 0]


def test_noise_depends_on_row_and_slot_alone():
  key = jax.random.key(3)
  noise = sampling.token_gumbel(key, 4, jnp.arange(3), 5)
  assert noise.shape == (4, 3, 5)
  assert np.unique(noise).size == noise.size
  part = sampling.token_gumbel(key, 2, jnp.array([2]), 5)
  np.testing.assert_array_equal(part[:, 0], noise[:2, 2])


def test_normal_noise_depends_on_row_and_slot_alone():
  key, slots = jax.random.key(3), jnp.array([[0, 2], [1, 0], [2, 1]])
  noise = sampling.token_normal(key, slots, (4, 2))
  assert noise.shape == (3, 2, 4, 2) and np.unique(noise).size == noise.size
  part = sampling.token_normal(key, slots[:2, ::-1], (4, 2))
  np.testing.assert_array_equal(part[:, ::-1], noise[:2])


def test_guidance_schedules():
  weights = lambda **kw: np.asarray(sampling.Sampler(**kw).weights(4))
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
  close(weights(guidance=1.5), [0, 0.5, 1.0, 1.5])  # VAR: t = cfg k / (S - 1)
  close(weights(guidance=4.0, schedule='constant'), [3, 3, 3, 3])
  close(weights(guidance=3.75, schedule='delayed'), [0, 2.75, 2.75, 2.75])
  # RAR: 1 + (g - 1) (1 - cos(pi (k / S)^p)) / 2, at p = 3 and k / S = 1 / 2.
  power = weights(guidance=5.0, schedule='power-cosine')
  close(power[2], 4 * (1 - np.cos(np.pi / 8)) / 2)
  power = weights(guidance=5.0, schedule='power-cosine', power=1.0)
  close(power, 2 * (1 - np.cos(np.pi * np.arange(4) / 4)))
  power = weights(guidance=5.0, schedule='power-cosine', power=0.0)
  close(power, [4, 4, 4, 4])  # what RAR's demo calls constant
  # MaskGen: 1 + (g - 1) (1 - cos(pi (k + 1) / S)) / 2; g - 1 times a share.
  close(weights(guidance=12.0, schedule='cosine')[[1, 3]], [6.5, 12])
  shares = sampling.Sampler(guidance=3.0, schedule='revealed')
  close(shares.weights(2), [1, 2])
  close(shares.weights(2, done=np.array([0.25, 0.75])), [0.5, 1.5])
  assert sampling.Sampler().weights(4) is None
  c, u = jnp.array([2.0]), jnp.array([1.0])
  assert sampling.guide(c, u, 0.5).item() == 2.5
  assert sampling.guide(c, u, 0.0).item() == 2.0


def test_sampler_is_a_pytree_whose_numbers_do_not_recompile():
  traces = []

  @jax.jit
  def draw(sampler, x, noise):
    traces.append(1)
    return sampler.draw(x, noise), sampler.weights(3)

  x = jnp.asarray(logits_with_ties())
  noise = jnp.zeros_like(x)
  for k, p, g in ((2, 0.5, 1.0), (9, 0.9, 3.0)):
    sampler = sampling.Sampler(top_k=k, top_p=p, guidance=g)
    _, weights = draw(sampler, x, noise)
    assert weights[-1] == g
  assert len(traces) == 1
  weigh = jax.jit(lambda sampler: sampler.weights(2))
  for power in (1.0, 2.0):
    sampler = sampling.Sampler(
      guidance=3.0, schedule='power-cosine', power=power
    )
    np.testing.assert_allclose(
      weigh(sampler)[1], 1 - np.cos(np.pi * 0.5**power), rtol=1e-6
    )
  assert weigh._cache_size() == 1


@pytest.mark.parametrize(
  'bad, message',
  [
    ({'guidance': -1.0}, 'guidance must not be negative, got -1.0'),
    ({'temperature': -0.1}, 'temperature must not be negative'),
    ({'top_k': 0}, 'top_k must be at least 1'),
    ({'top_p': 0.0}, r'top_p must lie in \(0, 1\]'),
    ({'top_p': 1.1}, r'top_p must lie in \(0, 1\]'),
    ({'schedule': 'cubic'}, 'unknown guidance schedule'),
  ],
)
def test_bad_numbers_are_refused(bad, message):
  with pytest.raises(ValueError, match=message):
    sampling.Sampler(**bad)


def test_top_k_above_the_codebook_is_refused():
  with pytest.raises(ValueError, match='top_k 900 is above the codebook'):
    sampling.Sampler(top_k=900).check(512)
  sampling.Sampler(top_k=512).check(512)
