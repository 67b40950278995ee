"""One matrix, three encodings: each against the matrix written out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.types import Dense, OneHot, Reduction, Signals, Sparse, Tokens

B, N, K = 2, 9, 4


def make(kind, n=N, k=K, seed=0):
  """A random reduction of a kind, its last kept slot empty in row 1."""
  rng = np.random.default_rng(seed)
  index = np.stack([rng.permutation(n)[:k] for _ in range(B)])
  valid = np.ones((B, k), bool)
  valid[1, -1] = False
  if kind == 'dense':
    matrix = rng.random((B, k, n)) * (rng.random((B, k, n)) < 0.6)
    assign = Dense(jnp.asarray(matrix * valid[..., None], jnp.float32))
  elif kind == 'sparse':
    target = rng.integers(-1, k, (B, n, 2))
    target[1][target[1] == k - 1] = -1
    weight = rng.random((B, n, 2)) * (target >= 0)
    assign = Sparse(jnp.asarray(target), jnp.asarray(weight, jnp.float32))
  else:
    target = np.full((B, n), -1)
    for b in range(B):
      if kind != 'select':
        target[b] = rng.integers(-1, k - (b == 1), n)
      target[b, index[b]] = np.where(valid[b], np.arange(k), -1)
    merged = {'select': 0, 'merge': n - k, 'any': None}[kind]
    assign = OneHot(jnp.asarray(target), merged=merged)
  return Reduction(
    index=jnp.asarray(index),
    valid=jnp.asarray(valid),
    assign=assign,
    positions=jnp.zeros((B, k, 1)),
  )


KINDS = ('select', 'merge', 'any', 'sparse', 'dense')
every = pytest.mark.parametrize('kind', KINDS)


def written_out(reduction, n=N):
  """The matrix by loops."""
  assign = reduction.assign
  matrix = np.zeros((B, reduction.index.shape[1], n))
  for b in range(B):
    for i in range(n):
      if isinstance(assign, Dense):
        matrix[b, :, i] = assign.matrix[b, :, i]
      elif isinstance(assign, Sparse):
        for t, w in zip(assign.target[b, i], assign.weight[b, i], strict=True):
          if t >= 0:
            matrix[b, t, i] += w
      elif assign.target[b, i] >= 0:
        matrix[b, assign.target[b, i], i] = 1
  return matrix


@every
@pytest.mark.parametrize('mode', ['sum', 'mean', 'mass'])
def test_apply_is_a_product_with_the_matrix(kind, mode):
  reduction = make(kind)
  matrix = written_out(reduction)
  np.testing.assert_allclose(pruners.dense(reduction), matrix, atol=1e-6)
  x = np.random.default_rng(1).normal(size=(B, N, 3, 2)).astype(np.float32)
  mass = np.random.default_rng(2).random((B, N)).astype(np.float32) + 0.5
  weight = {'sum': None, 'mean': np.ones((B, N)), 'mass': mass}[mode]
  want = np.einsum(
    'bkn,bn,bnij->bkij', matrix, mass if mode == 'mass' else np.ones((B, N)), x
  )
  if weight is not None:
    total = np.einsum('bkn,bn->bk', matrix, weight)[..., None, None]
    want = np.divide(want, total, out=np.zeros_like(want), where=total > 0)
  run = jax.jit(lambda x, m: pruners.apply(reduction, x, mode=mode, mass=m))
  np.testing.assert_allclose(run(x, mass), want, atol=1e-5)


@every
def test_labels_and_masks_follow_the_representative(kind):
  reduction = make(kind)
  labels = jnp.arange(1, B * N + 1).reshape(B, N)
  want = np.take_along_axis(np.asarray(labels), np.asarray(reduction.index), 1)
  want = np.where(reduction.valid, want, 0)
  np.testing.assert_array_equal(pruners.apply(reduction, labels), want)
  mask = pruners.apply(reduction, jnp.ones((B, N), bool))
  np.testing.assert_array_equal(mask, reduction.valid)
  with pytest.raises(ValueError, match="mode='representative'"):
    pruners.apply(reduction, labels, mode='mean')


def test_mode_errors():
  reduction, x = make('merge'), jnp.ones((B, N, 2))
  with pytest.raises(ValueError, match='unknown mode'):
    pruners.apply(reduction, x, mode='max')
  with pytest.raises(ValueError, match='needs `mass`'):
    pruners.apply(reduction, x, mode='mass')


@every
def test_arrays_of_other_slots_or_rows_are_refused(kind):
  reduction, ones = make(kind), jnp.ones
  says = lambda *got: pytest.raises(
    ValueError, match=re.escape(f'N={N}] to [B={B}, K={K}]') + f'.*{got[0]}'
  )
  for shape in ((B, N + 1, 3), (B, N - 1), (1, N, 3)):
    with says(re.escape(str(shape))):
      pruners.apply(reduction, ones(shape))
  with says('mass must'):
    pruners.apply(reduction, ones((B, N, 2)), mode='mass', mass=ones((B, K)))
  for shape in ((B, N, 3), (B + 1, K, 3)):
    with says(re.escape(str(shape))):
      pruners.unmerge(reduction, ones(shape))
  with says('fill must'):
    pruners.unmerge(reduction, ones((B, K, 3)), ones((B, K, 3)))


@pytest.mark.parametrize('kind', ['select', 'merge', 'any'])
def test_unmerge_copies_back_and_apply_undoes_it(kind):
  reduction = make(kind)
  y = jax.random.normal(jax.random.key(0), (B, K, 5))
  y = jnp.where(reduction.valid[..., None], y, 0)
  x = pruners.unmerge(reduction, y)
  target = np.asarray(reduction.assign.target)
  want = np.where(
    target[..., None] >= 0,
    np.take_along_axis(np.asarray(y), np.maximum(target, 0)[..., None], 1),
    0,
  )
  np.testing.assert_array_equal(x, want)
  np.testing.assert_allclose(
    pruners.apply(reduction, x, mode='mean'), y, atol=1e-6
  )
  fill = jnp.full((B, N, 5), 7.0)
  filled = pruners.unmerge(reduction, y, fill)
  np.testing.assert_array_equal((filled == 7).all(-1), target < 0)


@pytest.mark.parametrize('kind', ['sparse', 'dense'])
def test_unmerge_of_soft_assignments_is_a_weighted_mean(kind):
  reduction = make(kind)
  matrix = written_out(reduction)
  y = np.random.default_rng(3).normal(size=(B, K, 5)).astype(np.float32)
  total = matrix.sum(axis=1)[..., None]
  want = np.einsum('bkn,bkd->bnd', matrix, y)
  want = np.divide(want, total, out=np.zeros_like(want), where=total > 0)
  np.testing.assert_allclose(pruners.unmerge(reduction, y), want, atol=1e-5)


@pytest.mark.parametrize(
  ('kind', 'second_kind'),
  [
    ('select', 'merge'),
    ('merge', 'merge'),
    ('merge', 'any'),
    ('any', 'sparse'),
    ('sparse', 'merge'),
    ('sparse', 'sparse'),
    ('dense', 'select'),
    ('sparse', 'dense'),
  ],
)
def test_compose_equals_two_applications(kind, second_kind):
  first = make(kind)
  second = make(second_kind, n=K, k=3, seed=4)
  # Slots without anything in them stay so in the second step.
  live = first.valid
  assign = second.assign
  if isinstance(assign, OneHot):
    assign = assign.replace(target=jnp.where(live, assign.target, -1))
  elif isinstance(assign, Sparse):
    assign = assign.replace(weight=assign.weight * live[..., None])
  else:
    assign = Dense(assign.matrix * live[:, None])
  lead = jnp.take_along_axis(live, second.index, axis=1)
  second = second.replace(assign=assign, valid=second.valid & lead)
  if isinstance(assign, OneHot):  # no members without a representative
    ok = jnp.take_along_axis(
      second.valid, jnp.maximum(assign.target, 0), axis=1
    )
    target = jnp.where(ok, assign.target, -1)
    second = second.replace(assign=assign.replace(target=target))
  both = pruners.compose(first, second)
  x = jax.random.normal(jax.random.key(1), (B, N, 3))
  mass = jnp.linspace(0.5, 2, B * N).reshape(B, N)
  for mode in ('representative', 'sum'):
    step = pruners.apply(first, x, mode=mode)
    want = pruners.apply(second, step, mode=mode)
    got = pruners.apply(both, x, mode=mode)
    np.testing.assert_allclose(got, want, atol=1e-5, err_msg=mode)
  step = pruners.apply(first, x, mode='mass', mass=mass)
  step_mass = pruners.apply(first, mass, mode='sum')
  want = pruners.apply(second, step, mode='mass', mass=step_mass)
  got = pruners.apply(both, x, mode='mass', mass=mass)
  np.testing.assert_allclose(got, want, atol=1e-5)
  if isinstance(both.assign, OneHot) and both.assign.merged is not None:
    known = both.replace(assign=both.assign.replace(merged=None))
    np.testing.assert_allclose(
      pruners.apply(both, x, mode='sum'),
      pruners.apply(known, x, mode='sum'),
      atol=1e-6,
    )


def test_identity_changes_nothing():
  tokens = Tokens.create(
    jax.random.normal(jax.random.key(0), (2, 5, 3)),
    valid=jnp.arange(5)[None] < jnp.array([[5], [3]]),
  )
  out = pruners.reduce_tokens(tokens, pruners.identity(tokens), mode='mass')
  valid = tokens.valid[..., None]
  np.testing.assert_array_equal(
    out.features, jnp.where(valid, tokens.features, 0)
  )
  np.testing.assert_array_equal(out.mass, tokens.mass)
  np.testing.assert_array_equal(out.owner, tokens.owner)


def test_log_mass_bias_makes_a_merged_key_weigh_as_its_members():
  mass = jnp.array([[3.0, 1.0, 0.0]])
  tokens = Tokens.create(
    jnp.ones((1, 3, 2)), valid=jnp.array([[True, True, False]])
  ).replace(mass=mass)
  bias = pruners.log_mass_bias(tokens)
  assert bias.shape == (1, 1, 1, 3)
  np.testing.assert_allclose(jnp.exp(bias[0, 0, 0]), [3, 1, 1], rtol=1e-6)


def test_signals_move_with_their_tokens():
  reduction = make('merge')
  x = jax.random.normal(jax.random.key(0), (B, N, 3))
  signals = Signals(
    keys=jnp.stack([x, 2 * x], axis=1),
    attention_row=x[:, None, :, 0],
    before=x,
    rng=jax.random.split(jax.random.key(0), B),
  )
  moved = pruners.reduce_signals(signals, reduction)
  want = pruners.apply(reduction, x)
  np.testing.assert_array_equal(moved.keys[:, 1], 2 * want)
  np.testing.assert_array_equal(moved.attention_row[:, 0], want[..., 0])
  np.testing.assert_array_equal(moved.before, want)
  assert moved.queries is None and moved.rng is signals.rng
