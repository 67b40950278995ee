"""Mergers against loops, with paddings, protected tokens and several rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from tokpress_jax import pruners
from tokpress_jax.pruners import scores
from tokpress_jax.types import Dense, OneHot, Signals, Tokens

SLOTS, WIDTH = 20, 5
LENGTHS = (20, 9, 5, 9, 20, 5, 9, 20)
ROWS = len(LENGTHS)


STARTS = np.zeros((ROWS, SLOTS), bool)
STARTS[:, [2, 5, 6, 11, 15]] = True


def draw(kind, row, *shape):
  return np.random.default_rng((kind, row)).normal(size=shape)


def make(lengths=LENGTHS, slots=SLOTS, rows=range(ROWS)):
  """Tokens, a metric and scores; tokens 0 and 3 of each row are protected."""
  stack = lambda kind, *shape: np.stack(
    [draw(kind, i, SLOTS, *shape)[:slots] for i in rows]
  ).astype(np.float32)
  at = np.arange(slots)[None]
  valid = at < np.array(lengths)[:, None]
  protected = np.broadcast_to((at == 0) | (at == 3), valid.shape)
  grid = np.stack([at[0] // 5, at[0] % 5], axis=-1)
  tokens = Tokens.create(
    stack(0, WIDTH),
    positions=jnp.broadcast_to(grid, (*valid.shape, 2)),
    valid=valid,
    protected=protected,
    num_protected=2,
  )
  more = keys_of(rows), STARTS[list(rows), :slots]
  return tokens, jnp.asarray(stack(1, 4)), jnp.asarray(stack(2)), more


def kept_of(tokens, score, count=4):
  """The best `count` unprotected tokens."""
  count = jnp.full((score.shape[0],), count)
  free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
  return pruners.top(
    score,
    count=jnp.minimum(count, free),
    valid=tokens.valid,
    protected=tokens.protected,
  )[0]


def count_of(tokens):
  """A third of each row's unprotected tokens, at least one."""
  free = jnp.sum(tokens.valid & ~tokens.protected, axis=1)
  return jnp.maximum(free // 3, 1)


def keys_of(rows):
  return jax.vmap(jax.random.key)(jnp.array(list(rows)))


# Each merger with its arguments, all of them from `make`.
MERGERS = {
  'every_kth': lambda t, m, s, more: pruners.kth_bipartite(m, t, k=3),
  'random': lambda t, m, s, more: pruners.random_bipartite(
    m,
    t,
    rng=more[0],
    count=count_of(t),
    num_merged=(t.valid.shape[1] - 2) // 3,
  ),
  'nearest': lambda t, m, s, more: pruners.nearest_kept(
    m,
    t,
    kept=kept_of(t, s),
    sources=kept_of(t, s, 9),
    capacity=6,
    size_rule='similarity',
  ),
  'uniform': lambda t, m, s, more: pruners.uniform_targets(
    m, t, count=count_of(t), capacity=11, kept=kept_of(t, s, 3)
  ),
  'dpc_knn': lambda t, m, s, more: pruners.dpc_knn(
    m, t, count=count_of(t), capacity=8, neighbours=4
  ),
  'windows': lambda t, m, s, more: pruners.windows(t, size=(2, 2), capacity=8),
  'like_windows': lambda t, m, s, more: pruners.windows(
    t, size=(2, 3), capacity=t.valid.shape[1], metric=m, threshold=0.0
  ),
  'segments': lambda t, m, s, more: pruners.segments(
    t, starts=more[1], capacity=9
  ),
  'residual': lambda t, m, s, more: pruners.residual_token(
    pruners.selection(t, kept_of(t, s), capacity=6), t, weights=s
  ),
  'knn_weighted': lambda t, m, s, more: pruners.knn_weighted(
    m, t, kept=kept_of(t, s), weights=s, capacity=6, neighbours=3
  ),
  'soft': lambda t, m, s, more: pruners.soft_assign(
    m, t, kept=kept_of(t, s), capacity=6, temperature=0.3
  ),
}
every = pytest.mark.parametrize('name', MERGERS)


@functools.cache
def compiled(name):
  def run(*made):
    reduction = MERGERS[name](*made)
    return reduction, pruners.dense(reduction)

  return jax.jit(run)


@functools.cache
def run(name):
  return compiled(name)(*make())


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def oracle(name, row):
  """What a row does, by loops: {kept: members}, or a matrix {kept: weights}."""
  n = LENGTHS[row]
  metric = draw(1, row, SLOTS, 4)[:n].astype(np.float32).astype(float)
  score = draw(2, row, SLOTS)[:n].astype(np.float32)
  cosine = unit(metric) @ unit(metric).T
  protected = [i for i in (0, 3) if i < n]
  free = [i for i in range(n) if i not in protected]
  best = sorted(free, key=lambda i: -score[i])
  third = max(len(free) // 3, 1)
  alone = {i: [i] for i in protected}

  def nearest(kept, sources):
    groups = {i: [i] for i in kept}
    for i in sources:
      groups[max(kept, key=lambda j: cosine[i, j])].append(i)
    return {**alone, **groups}

  if name == 'every_kth':
    whole = len(free) // 3 * 3
    kept = free[2:whole:3] or [free[-1]]
    whole = whole or len(free)
    return nearest(kept, [i for i in free[:whole] if i not in kept])
  if name == 'random':
    key = keys_of([row])
    drawn = np.asarray(scores.random(key, jnp.ones((1, SLOTS), bool))[0])
    moved = sorted(free, key=lambda i: -drawn[i])
    moved = moved[: min(third, 6, len(free) - 1)]
    return nearest([i for i in free if i not in moved], moved)
  if name == 'nearest':
    return nearest(best[:4], best[4:9])
  if name == 'uniform':
    rest = [i for i in free if i not in best[:3]]
    count = min(third, len(rest))
    targets = rest[:: max(len(rest) // max(count, 1), 1)][:count]
    if not targets:
      return {**alone, **{i: [i] for i in best[:3]}}
    groups = nearest(targets, [i for i in rest if i not in targets])
    return {**groups, **{i: [i] for i in best[:3]}}
  if name == 'dpc_knn':
    away = {
      (i, j): np.linalg.norm(metric[i] - metric[j]) / 2
      for i in free
      for j in free
    }
    density = {}
    for i in free:
      near = sorted(away[i, j] for j in free)[:4]
      density[i] = np.exp(-np.mean(np.square(near)))
    value = {}
    for i in free:
      denser = [away[i, j] for j in free if density[j] > density[i]]
      value[i] = density[i] * min(denser or [max(away.values())])
    centres = sorted(free, key=lambda i: -value[i])[:third]
    groups = {i: [i] for i in centres}
    for i in free:
      if i not in centres:
        groups[min(centres, key=lambda j: away[i, j])].append(i)
    return {**alone, **groups}
  if name in ('windows', 'like_windows'):
    h, w = {'windows': (2, 2), 'like_windows': (2, 3)}[name]
    cells = {}
    for i in free:
      cells.setdefault((i // 5 // h, i % 5 // w), []).append(i)
    groups = dict(alone)
    for members in cells.values():
      pairs = [cosine[i, j] for i in members for j in members if i != j]
      if name == 'windows' or not pairs or np.mean(pairs) >= 0:
        groups[members[0]] = members
      else:
        groups.update({i: [i] for i in members})
    return groups
  if name == 'segments':
    groups, now = dict(alone), None
    for i in range(n):
      if i in protected:
        now = None
      elif now is None or STARTS[row, i]:
        now, groups[i] = i, [i]
      else:
        groups[now].append(i)
    return groups
  kept = best[:4]
  if name == 'residual':
    groups = {i: {i: 1} for i in sorted([*protected, *kept])}
    dropped = [i for i in free if i not in kept]
    if dropped:
      lead = max(dropped, key=lambda i: score[i])
      groups[lead] = {i: score[i] for i in dropped}
    return groups
  groups = {i: {i: 1} for i in protected}
  if name == 'knn_weighted':
    for i in kept:
      others = sorted((j for j in free if j != i), key=lambda j: -cosine[i, j])
      groups[i] = {i: 1, **{j: score[j] for j in others[:3]}}
    return groups
  groups.update({i: {} for i in kept})
  for j in free:
    logits = np.array([cosine[i, j] for i in kept]) / 0.3
    weights = np.exp(logits) / np.exp(logits).sum()
    for i, weight in zip(kept, weights, strict=True):
      groups[i][j] = weight
  return groups


@every
def test_equals_the_oracle(name):
  reduction, matrix = run(name)
  for row in range(ROWS):
    want = oracle(name, row)
    valid = np.asarray(reduction.valid[row])
    index = np.asarray(reduction.index[row])[valid]
    assert sorted(index.tolist()) == sorted(want)
    full = np.zeros((len(index), SLOTS))
    for k, lead in enumerate(index):
      members = want[int(lead)]
      if isinstance(members, list):
        assert lead in members
        full[k, members] = 1
      else:
        full[k, list(members)] = list(members.values())
    np.testing.assert_allclose(matrix[row][valid], full, atol=1e-5)
    assert not np.asarray(matrix[row])[~valid].any()
    where = np.asarray(make()[0].positions[row])[index]
    np.testing.assert_array_equal(reduction.positions[row][valid], where)
    if name not in ('residual', 'uniform'):  # these two put some last
      assert index.tolist() == sorted(want)


@every
def test_a_padded_row_is_reduced_as_alone(name):
  reduction, matrix = run(name)
  for row in range(ROWS):
    n = LENGTHS[row]
    alone, matrix_alone = compiled(name)(*make((n,), n, [row]))
    k = int(alone.valid.sum())
    assert int(reduction.valid[row].sum()) == k
    np.testing.assert_array_equal(
      reduction.index[row][reduction.valid[row]], alone.index[alone.valid]
    )
    np.testing.assert_allclose(
      matrix[row][reduction.valid[row]][:, :n],
      matrix_alone[0][alone.valid[0]],
      atol=1e-5,
    )


def test_members_that_joined_are_in_no_other_slot():
  for name in MERGERS:
    reduction, _ = run(name)
    if isinstance(reduction.assign, OneHot):
      for row in range(ROWS):
        oracles.groups_of(reduction, row)


def test_masses_by_similarity():
  tokens = make()[0]
  reduction, matrix = run('nearest')
  out = pruners.reduce_tokens(tokens, reduction, mode='mean')
  for row in range(ROWS):
    n = LENGTHS[row]
    metric = unit(draw(1, row, SLOTS, 4)[:n])
    want = {
      i: sum(max(float(metric[i] @ metric[j]), 0) for j in members)
      for i, members in oracle('nearest', row).items()
    }
    for k in np.flatnonzero(reduction.valid[row]):
      lead = int(reduction.index[row, k])
      np.testing.assert_allclose(out.mass[row, k], want[lead], atol=1e-5)
  twice = pruners.compose(reduction, pruners.identity(out))
  np.testing.assert_allclose(
    pruners.reduce_tokens(tokens, twice, mode='sum').mass, out.mass, atol=1e-5
  )
  soft = reduction.replace(assign=Dense(matrix))
  with pytest.raises(ValueError, match='in turn'):
    pruners.compose(soft, pruners.identity(out).replace(mass_share=out.mass))


def test_target_plus_mean_is_not_divided_again():
  tokens = make()[0]
  reduction, _ = run('uniform')
  got = pruners.apply(reduction, tokens.features, mode='target_mean')
  for row in range(ROWS):
    x = np.asarray(tokens.features[row])
    for k in np.flatnonzero(reduction.valid[row]):
      lead = int(reduction.index[row, k])
      others = [i for i in oracle('uniform', row)[lead] if i != lead]
      want = x[lead] + (x[others].mean(axis=0) if others else 0)
      np.testing.assert_allclose(got[row, k], want, atol=1e-5)
  with pytest.raises(ValueError, match='one-hot assignment, got Dense'):
    pruners.apply(run('soft')[0], tokens.features, mode='target_mean')


def test_soft_becomes_nearest_and_keeps_mass():
  tokens, metric, score, _ = make()
  kept = kept_of(tokens, score)
  soft = functools.partial(
    pruners.soft_assign, metric, tokens, kept=kept, capacity=6
  )
  hard = pruners.nearest_kept(metric, tokens, kept=kept, capacity=6)
  np.testing.assert_allclose(
    pruners.dense(soft(temperature=1e-5)), pruners.dense(hard), atol=1e-3
  )
  mass = pruners.reduce_tokens(tokens, soft(), mode='mass').mass
  np.testing.assert_allclose(mass.sum(axis=1), LENGTHS, rtol=1e-5)
  rows = pruners.dense(soft(normalise='slots')).sum(axis=2)
  np.testing.assert_allclose(rows, hard.valid, atol=1e-5)
  # Support: with each token's own slot only, this is pruning.
  own = jnp.broadcast_to(jnp.eye(SLOTS, dtype=bool), (ROWS, SLOTS, SLOTS))
  pruned = pruners.selection(tokens, kept, capacity=6)
  np.testing.assert_allclose(
    pruners.dense(soft(support=own)), pruners.dense(pruned), atol=1e-6
  )


def test_token_transforming_spreads_over_what_the_class_token_sees():
  tokens, metric, score, _ = make()
  pruner = pruners.TokenTransforming(budget=4, temperature=0.3)
  row = jnp.exp(jnp.stack([score, score], axis=1))
  signals = Signals(keys=metric[:, None], attention_row=row)
  out, reduction = pruner(tokens, signals)
  matrix = pruners.dense(reduction)
  for i in range(ROWS):
    valid = np.asarray(reduction.valid[i])
    x = np.asarray(tokens.features[i])
    for k in np.flatnonzero(valid):
      found = oracle('soft', i)[int(reduction.index[i, k])]
      members, weights = list(found), np.array(list(found.values()))
      full = np.zeros(SLOTS)
      full[members] = weights
      np.testing.assert_allclose(matrix[i, k], full, atol=1e-5)
      want = (x[members] * weights[:, None]).sum(axis=0) / weights.sum()
      np.testing.assert_allclose(out.features[i, k], want, atol=1e-5)
      np.testing.assert_allclose(out.mass[i, k], weights.sum(), atol=1e-5)


def test_soft_weights_are_learned():
  tokens, metric, score, _ = make()
  kept = kept_of(tokens, score)

  def loss(metric):
    reduction = pruners.soft_assign(metric, tokens, kept=kept, capacity=6)
    y = pruners.apply(reduction, tokens.features, mode='mean')
    return jnp.sum(y**2)

  gradient = jax.jit(jax.grad(loss))(metric)
  assert bool(jnp.isfinite(gradient).all())
  moves = jnp.abs(gradient).max(axis=-1) > 0
  free = tokens.valid & ~tokens.protected
  free &= jnp.sum(free, axis=1, keepdims=True) > 3  # 3 are all kept: still soft
  assert bool(moves[free].all())
  assert not bool((moves & ~(tokens.valid & ~tokens.protected)).any())


def test_residual_of_hard_and_soft_reductions():
  tokens, _, score, _ = make()
  base = pruners.selection(tokens, kept_of(tokens, score), capacity=6)
  hard = pruners.residual_token(base, tokens)
  written = base.replace(assign=Dense(pruners.dense(base)))
  soft = pruners.residual_token(written, tokens)
  np.testing.assert_array_equal(pruners.dense(hard), pruners.dense(soft))
  np.testing.assert_array_equal(pruners.dense(hard).sum(axis=1), tokens.valid)
  total = pruners.reduce_tokens(tokens, hard, mode='sum')
  np.testing.assert_allclose(
    total.features.sum(axis=1),
    jnp.where(tokens.valid[..., None], tokens.features, 0).sum(axis=1),
    atol=1e-5,
  )
  # One dropped token, of a row of 5 with 4 kept and 2 protected: none is left.
  assert hard.valid[:, -1].tolist() == [n > 6 for n in LENGTHS]


def test_strides_are_windows_of_slots():
  # LLaVolta: 10 tokens by stride 4, means 4 + 4 + 2, positions averaged.
  tokens = Tokens.create(jnp.arange(10.0)[None, :, None])
  reduction = pruners.windows(tokens, size=(4,), capacity=3)
  y = pruners.apply(reduction, tokens.features, mode='mean')
  assert y[0, :, 0].tolist() == [1.5, 5.5, 8.5]


def test_windows_do_not_mix_owners_and_say_what_is_wrong():
  tokens = Tokens.create(jnp.ones((1, 4, 2)), owner=jnp.array([[0, 0, 1, 1]]))
  reduction = pruners.windows(tokens, size=(4,), capacity=2)
  assert reduction.assign.target.tolist() == [[0, 0, 1, 1]]
  with pytest.raises(ValueError, match='one size per axis'):
    pruners.windows(tokens, size=(2, 2), capacity=4)
  with pytest.raises(ValueError, match='need a metric'):
    pruners.windows(tokens, size=(2,), capacity=4, threshold=0.5)
  with pytest.raises(ValueError, match='k at least 2; got 1'):
    pruners.kth_bipartite(tokens.features, tokens, k=1)
