"""The loops on toy models, against step-by-step NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.generators import commit, loops, order


def running_sum(sizes, *, how=commit.append, unroll=True):
  """A toy 'network' whose block reads the mean of the cache's filled part.

  Block k writes its inputs (the last output plus its slot numbers) into the
  cache; its output is the mean of all that it sees, plus k.
  """
  total = sum(sizes)

  def forward(x, cache, block):
    cache = jax.lax.dynamic_update_slice(cache, x, (block.start,))
    seen = jnp.arange(total) < block.start + block.size
    return jnp.where(seen, cache, 0).sum() / seen.sum(), cache

  def step(state, cache, block):
    x = state + block.start + jnp.arange(block.size, dtype=jnp.float32)
    mean, after = forward(x, cache, block)
    out = mean + block.index
    return out, after, out

  def clean(state, cache, block):
    return forward(jnp.full((block.size,), state), cache, block)[1]

  loop = loops.BlockLoop(sizes=sizes, commit=how, unroll=unroll)
  run = jax.jit(
    lambda: loop(step, jnp.float32(0), jnp.zeros(total), clean=clean)
  )
  return run()


def oracle(sizes, how):
  cache, state, start, outputs = np.zeros(sum(sizes)), 0.0, 0, []
  for index, size in enumerate(sizes):
    before = cache.copy()
    cache[start : start + size] = state + start + np.arange(size)
    state = cache[: start + size].mean() + index
    if how is commit.rerun:
      cache = before
      cache[start : start + size] = state
    elif how is commit.nothing:
      cache = before
    outputs.append(state)
    start += size
  return state, cache, outputs


@pytest.mark.parametrize(
  'how', [commit.append, commit.rerun, commit.nothing], ids=lambda f: f.__name__
)
@pytest.mark.parametrize(
  'sizes, unroll', [((1, 3, 2), True), ((2, 2, 2), True), ((2, 2, 2), False)]
)
def test_block_loop_equals_step_by_step(sizes, unroll, how):
  state, cache, outputs = running_sum(sizes, how=how, unroll=unroll)
  want_state, want_cache, want_outputs = oracle(sizes, how)
  np.testing.assert_allclose(state, want_state, rtol=1e-6)
  np.testing.assert_allclose(cache, want_cache, rtol=1e-6)
  np.testing.assert_allclose(np.stack(outputs), want_outputs, rtol=1e-6)


def test_block_loop_refuses_what_it_cannot_do():
  with pytest.raises(ValueError, match='only equal blocks can be scanned'):
    loops.BlockLoop(sizes=(1, 2), unroll=False)
  with pytest.raises(ValueError, match='needs clean'):
    loops.BlockLoop(sizes=(1,), commit=commit.rerun)(None, None, None)


N, VOCAB = 12, 7


def toy_logits(values, known, step, weights):
  """A 'network': each position's logits depend on all known values."""
  xp = jnp if isinstance(values, jax.Array) else np
  context = xp.where(known, values + 1, 0) * 1.0
  mixed = context @ weights['mix']  # [B, N]
  return xp.sin(
    mixed[..., None] * weights['freq'][None, None] + weights['phase'][None]
  ) * (1 + step)


def toy_weights():
  rng = np.random.default_rng(0)
  return {
    'mix': rng.normal(size=(N, N)).astype(np.float32) / 5,
    'freq': rng.normal(size=VOCAB).astype(np.float32),
    'phase': rng.normal(size=(N, VOCAB)).astype(np.float32) * 3,
  }


@pytest.mark.parametrize('given', [(), (3, 8)])
def test_refine_loop_is_maskgit_step_by_step(given):
  """Confidence order with Gumbel noise annealed over the steps."""
  batch, counts = 3, order.reveal_counts(N, 4)
  weights = toy_weights()
  rng = np.random.default_rng(1)
  draws = rng.gumbel(size=(4, batch, N, VOCAB)).astype(np.float32)
  jitter = rng.gumbel(size=(4, batch, N)).astype(np.float32)
  known = np.zeros((batch, N), bool)
  known[:, list(given)] = True
  values = np.where(known, 2, 0).astype(np.int32)

  def predict(values, known, step):
    logits = toy_logits(values, known, step.index, weights)
    codes = jnp.argmax(logits + jnp.asarray(draws)[step.index], axis=-1)
    log_probs = jax.nn.log_softmax(logits)
    sure = jnp.take_along_axis(log_probs, codes[..., None], -1)[..., 0]
    noise = 4.5 * (1 - step.ratio) * jnp.asarray(jitter)[step.index]
    return codes.astype(jnp.int32), sure + noise

  traces = []

  @jax.jit
  def run(values, known):
    traces.append(1)
    return loops.RefineLoop(counts=counts)(predict, values, known=known)

  got, rank = run(jnp.asarray(values), jnp.asarray(known))
  want = values.copy()
  want_rank = np.where(known, -1, 99)
  for k, count in enumerate(counts):
    logits = toy_logits(want, known, k, weights)
    codes = np.argmax(logits + draws[k], axis=-1)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for b in range(batch):
      unknown = [i for i in range(N) if not known[b, i]]
      score = {
        i: log_probs[b, i, codes[b, i]]
        + 4.5 * (1 - (k + 1) / 4) * jitter[k, b, i]
        for i in unknown
      }
      best = sorted(unknown, key=lambda i: -score[i])
      for i in best if k == 3 else best[:count]:
        want[b, i], want_rank[b, i] = codes[b, i], k
    known = want_rank <= k
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(rank, want_rank)
  assert len(traces) == 1
  assert (want_rank < 4).all()


def test_refine_loop_follows_a_random_rank():
  """MAR: the score is minus a rank drawn once; values may be any pytree."""
  counts = (2, 3, 4)
  drawn = order.random(jax.random.key(0), 2, counts)
  values = {'z': jnp.zeros((2, 9, 3)), 'code': jnp.zeros((2, 9), jnp.int32)}

  def predict(values, known, step):
    filled = jax.tree.map(lambda x: jnp.full_like(x, step.index + 1), values)
    return filled, -drawn.rank.astype(jnp.float32)

  loop = loops.RefineLoop(counts=counts)
  got, rank = loop(predict, values, known=jnp.zeros((2, 9), bool))
  np.testing.assert_array_equal(rank, drawn.rank)
  np.testing.assert_array_equal(got['code'], drawn.rank + 1)
  np.testing.assert_array_equal(got['z'][..., 2], drawn.rank + 1)


def test_refine_loop_reveals_impossible_tokens_last_and_never_the_known():
  known = jnp.array([[True, False, False, False]])
  predict = lambda v, known, step: (
    v + 10,
    jnp.where(jnp.arange(4) < 2, -jnp.inf, 1.0)[None],
  )
  values, rank = loops.RefineLoop(counts=(1, 1, 1))(
    predict, jnp.zeros((1, 4), jnp.int32), known=known
  )
  assert rank.tolist() == [[-1, 2, 0, 1]]
  assert values[0, 0] == 0
