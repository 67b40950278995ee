"""Search over prefixes, against loops, and with a real generator."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from tokpress_jax import types
from tokpress_jax.errors import UserError
from tokpress_jax.generators import Sampler, search

TOKENS, CODES = 6, 4


@dataclasses.dataclass(frozen=True)
class Config:
  boundaries: tuple[int, ...] = tuple(range(1, TOKENS + 1))


class Tokenizer(nn.Module):
  """An image is its codes, 0 beyond its length."""

  config: Config = Config()

  @property
  def boundaries(self):
    return self.config.boundaries

  @property
  def num_tokens(self):
    return self.config.boundaries[-1]

  def decode_codes(self, codes, *, length):
    seen = jnp.arange(TOKENS)[None] < length
    return jnp.where(seen, codes[..., 0], 0)[:, None, :, None] / CODES


def tokenizer(*bounds):
  config = Config(bounds) if bounds else Config()
  spec = types.Spec(name='', family='tokenizer', config=config)
  return types.Loaded(Tokenizer(config), {}, spec)


def weights(labels):
  """What each slot is worth, another for each label."""
  table = np.random.default_rng(3).normal(size=(3, TOKENS)).astype(np.float32)
  return jnp.asarray(table)[labels]


def verifier(images, labels):
  return jnp.sum(images[:, 0, :, 0] * weights(labels), axis=1)


LABELS = np.array([2, 0])


@pytest.mark.parametrize('lookahead', [0, 2, None])
def test_beams_equal_those_of_loops(lookahead):
  """The same draws, judged one by one."""
  calls = []
  chance = search.uniform_prior(CODES)

  def prior(codes, labels, *, start, end, rng):
    out = chance(codes, labels, start=start, end=end, rng=rng)
    calls.append((start, end, np.asarray(out)))
    return out

  found = search.beam_search(
    tokenizer(),
    prior,
    LABELS,
    verifier=verifier,
    rng=jax.random.key(0),
    width=3,
    candidates=4,
    lookahead=lookahead,
    batch=5,
  )
  beams = [[np.zeros(TOKENS, int)] for _ in LABELS]
  ends, start = (1, 2, 4, 6), 0
  for step, end in enumerate(ends):
    extra = TOKENS if lookahead is None else lookahead
    shown = min(end + extra, TOKENS)
    drawn = calls.pop(0)
    assert drawn[:2] == (start, end)
    seen = calls.pop(0) if shown > end else drawn
    assert seen[1] == shown
    many = 12 if step == 0 else 4
    row = 0
    for p, label in enumerate(LABELS):
      pool = []
      for beam in beams[p]:
        for _ in range(many):
          codes, view = drawn[2][row], seen[2][row].copy()
          np.testing.assert_array_equal(codes[:start], beam[:start])
          view[shown:] = 0
          score = float(view / CODES @ np.asarray(weights(label)))
          pool.append((score, -row, codes))
          row += 1
      pool.sort(key=lambda x: x[:2], reverse=True)
      beams[p] = [codes for _, _, codes in pool[:3]]
      np.testing.assert_allclose(found.best[step, p], pool[0][0], atol=1e-5)
    start = end
  assert not calls
  np.testing.assert_array_equal(
    found.codes[..., 0], [beam[0] for beam in beams]
  )
  np.testing.assert_allclose(found.scores, found.best[-1])
  np.testing.assert_allclose(
    verifier(found.images, LABELS), found.scores, atol=1e-6
  )
  assert found.decoded == 12 * len(ends)


def test_a_first_step_and_a_completion_of_their_own():
  """The official `scale_first_step` off, and `complete_after_search` on."""
  calls = []
  chance = search.uniform_prior(CODES)

  def prior(codes, labels, *, start, end, rng):
    calls.append((len(codes), start, end))
    return chance(codes, labels, start=start, end=end, rng=rng)

  def last(codes, labels, *, start, end, rng):
    """The code that is best for each slot that is missing."""
    calls.append((len(codes), start, end))
    good = jnp.where(weights(labels) > 0, CODES - 1, 0)
    return jnp.where(jnp.arange(TOKENS)[None] < start, codes, good)

  options = {'verifier': verifier, 'rng': jax.random.key(1)}
  options |= {'width': 3, 'candidates': 4, 'schedule': (1, 2, 4)}
  found = search.beam_search(
    tokenizer(), prior, LABELS, first_candidates=4, completion=last, **options
  )
  # 4 of the empty beam, then 4 of each of 3 beams, for two labels.
  assert calls == [(8, 0, 1), (24, 1, 2), (24, 2, 4), (6, 4, 6)]
  assert found.decoded == 4 + 12 + 12 + 3
  assert found.best.shape == (4, 2)
  np.testing.assert_allclose(
    verifier(found.images, LABELS), found.scores, atol=1e-6
  )
  rest = np.asarray(weights(LABELS))[:, 4:]
  np.testing.assert_allclose(
    found.best[3] - found.best[2],
    np.maximum(rest, 0).sum(1) * (CODES - 1) / CODES,
    atol=1e-5,
  )
  np.testing.assert_array_equal(
    found.codes[:, 4:, 0], np.where(rest > 0, CODES - 1, 0)
  )
  with pytest.raises(UserError, match='give a completion'):
    search.beam_search(tokenizer(), prior, LABELS, **options)
  with pytest.raises(UserError, match='first_candidates must be at least 1'):
    search.beam_search(
      tokenizer(),
      prior,
      LABELS,
      first_candidates=0,
      completion=last,
      **options,
    )


def test_search_beats_as_many_whole_images():
  """Every slot counts for itself here, so that early choices are right."""
  options = {'verifier': verifier, 'rng': jax.random.key(1)}
  chance, labels = search.uniform_prior(CODES), np.arange(30) % 3
  beam = search.beam_search(
    tokenizer(), chance, labels, width=3, candidates=4, **options
  )
  whole = search.best_of(
    tokenizer(), chance, labels, count=beam.decoded, **options
  )
  assert whole.decoded == beam.decoded
  assert beam.scores.mean() > whole.scores.mean() + 0.1
  more = search.best_of(tokenizer(), chance, labels, count=2, **options)
  assert whole.scores.mean() > more.scores.mean() + 0.5


@pytest.mark.parametrize('name', ['next_token', 'scale_wise'])
def test_a_generator_continues_what_was_kept(name):
  model = getattr(tiny_models, name)()
  prior = search.generator_prior(model, Sampler(top_p=0.9))
  bright = lambda images, labels: images.mean(axis=(1, 2, 3))
  found = search.beam_search(
    model.tokenizer,
    prior,
    jnp.array([0, 1]),
    verifier=bright,
    rng=jax.random.key(0),
    width=2,
    candidates=3,
  )
  tokens = model.module.config.num_tokens
  assert found.codes.shape == (2, tokens, 1)
  again = jax.jit(lambda t, c: t.decode_codes(c))(model.tokenizer, found.codes)
  np.testing.assert_allclose(found.images, again, atol=1e-5)
  np.testing.assert_allclose(found.scores, bright(again, None), atol=1e-5)
  bounds = model.module.config.boundaries
  start = bounds[-2]
  kept = prior(
    found.codes[..., 0],
    jnp.array([0, 1]),
    start=start,
    end=tokens,
    rng=jax.random.key(2),
  )
  np.testing.assert_array_equal(kept[:, :start], found.codes[:, :start, 0])


def test_schedules():
  line = tuple(range(1, 257))
  assert search.geometric_schedule(line) == (1, 2, 4, 8, 16, 32, 64, 128, 256)
  assert search.geometric_schedule((1, 5, 14, 30)) == (1, 5, 14, 30)
  assert search.geometric_schedule((32,)) == (32,)
  run = lambda **kwargs: search.beam_search(
    tokenizer(),
    search.uniform_prior(CODES),
    LABELS,
    verifier=verifier,
    rng=jax.random.key(0),
    **kwargs,
  )
  with pytest.raises(UserError, match=r'rises over legal lengths .* \(3, 2\)'):
    run(schedule=(3, 2))
  with pytest.raises(UserError, match=r'has all 6 tokens, got \(1, 3\)'):
    run(schedule=(1, 3))
  with pytest.raises(UserError, match='at least 1, got 0, 10'):
    run(width=0)
