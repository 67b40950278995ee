"""What every pruner promises; a new one joins by a row in PRUNERS."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tokpress_jax import pruners
from tokpress_jax.types import Ratio, Signals, Tokens

PRUNERS = {
  'top-attention': pruners.TopAttention(budget=5),
  'top-norm': pruners.TopNorm(budget=Ratio(ratio=0.3), order='score'),
  'random': pruners.Random(budget=Ratio(ratio=0.4, rounding='ceil')),
  'stride': pruners.Stride(budget=pruners.Bytes(limit=56, per_token=8)),
  'tome': pruners.ToMe(budget=pruners.Remove(tokens=4), positions='mean'),
  'tome-random': pruners.RandomToMe(budget=7),
  'tome-kth': pruners.EveryKth(budget=Ratio(ratio=1 / 3)),
  'pitome': pruners.PiToMe(budget=pruners.Remove(tokens=4)),
  'pitome-all': pruners.PiToMe(budget=Ratio(ratio=0.7), partition='all'),
  'diffrate': pruners.DiffRate(budget=5, left=Ratio(ratio=0.5)),
  'token-transforming': pruners.TokenTransforming(budget=6),
}
ROWS, SLOTS, WIDTH, HEADS = 8, 24, 6, 2
LENGTHS = (24, 13, 18, 24, 13, 18, 24, 13)
TRACES: list[str] = []

every = pytest.mark.parametrize('name', PRUNERS)


@functools.partial(jax.jit, static_argnums=0)
def jitted(name, tokens, signals):
  """The one jitted program of each method; the checks share it."""
  TRACES.append(name)
  return PRUNERS[name](tokens, signals)


def make(lengths=LENGTHS, slots=SLOTS, *, rows=None, seed=0):
  """Tokens and signals; row i is the same whatever the batch and padding."""
  rows = range(len(lengths)) if rows is None else rows

  def draw(kind, *shape):
    pick = lambda i: np.random.default_rng((seed, kind, i)).normal(size=shape)
    return np.stack([pick(i) for i in rows]).astype(np.float32)

  at = np.arange(slots)[None]
  valid = at < np.array(lengths)[:, None]
  tokens = Tokens.create(
    jnp.asarray(draw(0, SLOTS, WIDTH)[:, :slots]),
    valid=jnp.asarray(valid),
    protected=jnp.asarray(np.broadcast_to(at == 0, valid.shape)),
  )
  signals = Signals(
    keys=draw(1, HEADS, SLOTS, 4)[:, :, :slots],
    attention_row=np.exp(draw(2, HEADS, SLOTS)[:, :, :slots]),
    rng=jax.random.split(jax.random.key(seed), 8)[np.array(list(rows))],
  )
  return tokens, signals


def assert_rows_equal(got, want, *, rows, atol=1e-5):
  """Compares valid slots of some rows of `got` with all rows of `want`."""
  (a, a_red), (b, b_red) = got, want
  for i, row in enumerate(rows):
    kept = int(b.valid[i].sum())
    assert int(a.valid[row].sum()) == kept
    np.testing.assert_array_equal(
      a_red.index[row, :kept], b_red.index[i, :kept]
    )
    for field in ('features', 'positions', 'mass', 'owner', 'protected'):
      np.testing.assert_allclose(
        np.asarray(getattr(a, field)[row, :kept], np.float32),
        np.asarray(getattr(b, field)[i, :kept], np.float32),
        atol=atol,
      )


@every
def test_jit_equals_eager(name):
  tokens, signals = make()
  assert_rows_equal(
    jitted(name, tokens, signals),
    PRUNERS[name](tokens, signals),
    rows=range(ROWS),
  )


@every
def test_batch_of_one_without_padding_equals_row(name):
  got = jitted(name, *make())
  for row in (1, 2):
    n = LENGTHS[row]
    want = jitted(name, *make((n,), n, rows=[row]))
    assert_rows_equal(got, want, rows=[row])


@every
def test_padding_is_ignored_wherever_it_stands(name):
  tokens, signals = make()
  # Move each row's padding to the front and fill it with large numbers.
  shift = SLOTS - jnp.array(LENGTHS)
  roll = jax.vmap(lambda x, n: jnp.roll(x, n, axis=0))
  junk = lambda x, valid: jnp.where(valid[..., None], x, 1e4)
  valid = roll(tokens.valid, shift)
  moved = tokens.replace(
    features=junk(roll(tokens.features, shift), valid),
    positions=roll(tokens.positions, shift),
    valid=valid,
    mass=roll(tokens.mass, shift),
    owner=roll(tokens.owner, shift),
    protected=roll(tokens.protected, shift),
  )
  heads = jax.vmap(lambda x, n: jnp.roll(x, n, axis=1))
  keys = heads(signals.keys, shift)
  moved_signals = signals.replace(
    keys=jnp.where(valid[:, None, :, None], keys, 1e4),
    attention_row=heads(signals.attention_row, shift),
  )
  got, got_red = jitted(name, moved, moved_signals)
  want, want_red = jitted(name, tokens, signals)
  got_red = got_red.replace(
    index=jnp.where(got_red.valid, got_red.index - shift[:, None], 0)
  )
  assert_rows_equal((got, got_red), (want, want_red), rows=range(ROWS))
  assert float(jnp.abs(got.features).max()) < 100
  np.testing.assert_array_equal(got.mass == 0, ~got.valid)


@every
def test_protected_tokens_stay_and_mass_is_accounted_for(name):
  tokens, signals = make()
  out, reduction = jitted(name, tokens, signals)
  assert bool((out.protected.sum(axis=1) == 1).all())
  np.testing.assert_array_equal(out.features[:, 0], tokens.features[:, 0])
  taken = pruners.dense(reduction).sum(axis=1)
  if reduction.mass_share is not None:
    assert bool(((reduction.mass_share >= 0) & (taken <= 1)).all())
    taken *= reduction.mass_share
  np.testing.assert_allclose(out.mass.sum(axis=1), taken.sum(axis=1), rtol=1e-5)
  assert not np.asarray(taken)[~np.asarray(tokens.valid)].any()


@every
def test_bfloat16_is_finite_and_kept(name):
  tokens, signals = make()
  low = lambda tree: jax.tree.map(
    lambda x: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x, tree
  )
  out, _ = jitted(
    name, tokens.replace(features=low(tokens.features)), low(signals)
  )
  assert out.features.dtype == jnp.bfloat16
  assert bool(jnp.isfinite(out.features).all())


@every
def test_gradients_reach_exactly_what_was_kept(name):
  tokens, signals = make()

  def loss(features):
    out, reduction = jitted(name, tokens.replace(features=features), signals)
    return jnp.sum(out.features), reduction

  gradient, reduction = jax.grad(loss, has_aux=True)(tokens.features)
  kept = pruners.dense(reduction).sum(axis=1) > 0
  np.testing.assert_array_equal(jnp.abs(gradient).max(axis=-1) > 0, kept)


@every
def test_eight_devices_equal_one(name):
  tokens, signals = make()
  mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
  split = jax.device_put(
    (tokens, signals), NamedSharding(mesh, PartitionSpec('data'))
  )
  got = jitted(name, *split)
  assert len(got[0].features.sharding.device_set) == 8
  want = jitted(name, tokens, signals)
  assert_rows_equal(got, want, rows=range(ROWS))


@every
def test_one_compilation_per_plan(name):
  jitted(name, *make())
  traced = len(TRACES)
  jitted(name, *make((24, 24, 1, 2, 3, 4, 5, 6), seed=1))
  jitted(name, *make((9,) * 8, seed=2))
  assert len(TRACES) == traced


@every
def test_vmap_adds_an_axis(name):
  pairs = [make(seed=seed) for seed in (0, 4)]
  both = jax.tree.map(lambda *x: jnp.stack(x), *pairs)
  got = jax.vmap(functools.partial(jitted, name))(*both)
  want = jitted(name, *pairs[1])
  pick = jax.tree.map(lambda x: x[1], got)
  assert_rows_equal(pick, want, rows=range(ROWS))


@every
@pytest.mark.parametrize('slots', [576, 2880])
def test_shapes_at_published_sizes(name, slots):
  shape = lambda *s, dtype='bfloat16': jax.ShapeDtypeStruct(s, dtype)

  def run(features, keys, row):
    tokens = Tokens.create(features)
    rng = jax.random.split(jax.random.key(0), 2)
    signals = Signals(keys=keys, attention_row=row, rng=rng)
    return PRUNERS[name](tokens, signals)

  out, reduction = jax.eval_shape(
    run,
    shape(2, slots, 4096),
    shape(2, 32, slots, 128),
    shape(2, 32, slots, dtype='float32'),
  )
  kept = reduction.index.shape[1]
  assert out.features.shape == (2, kept, 4096) and 1 <= kept < slots
  assert out.features.dtype == jnp.bfloat16


@every
def test_all_causes_of_bad_input_are_listed(name):
  tokens, _ = make()
  broken = tokens.replace(
    features=tokens.features.at[2, 0].set(jnp.nan),
    valid=tokens.valid.at[1].set(False),
    protected=tokens.protected.at[4, :2].set(True),
  )
  with pytest.raises(ValueError) as error:
    PRUNERS[name](broken, Signals())
  said = str(error.value)
  assert 'rows [2] hold NaN' in said
  assert 'rows [1] are all padding' in said
  assert 'rows [4] protect more than num_protected=1' in said
  for need in PRUNERS[name].needs:
    assert need in said


@pytest.mark.parametrize(
  ('name', 'shape'),
  [
    ('keys', (ROWS, HEADS, SLOTS + 1, 4)),
    ('queries', (1, HEADS, SLOTS, 4)),
    ('attention_row', (ROWS, SLOTS)),
    ('attention_column', (ROWS, HEADS, SLOTS - 1)),
    ('before', (ROWS, HEADS, SLOTS, WIDTH)),
    ('rng', (ROWS - 1,)),
    ('rng', ()),
  ],
)
def test_signals_of_other_tokens_are_refused_also_at_trace_time(name, shape):
  tokens, signals = make()
  bad = jax.ShapeDtypeStruct(shape, 'float32')
  signals = signals.replace(**{name: bad})
  with pytest.raises(ValueError, match=rf'{name} must .*{ROWS}') as error:
    jax.eval_shape(PRUNERS['tome'], tokens, signals)
  assert str(shape) in str(error.value)


def test_arrays_are_told_to_be_wrapped():
  tokens, signals = make()
  with pytest.raises(ValueError, match=r'Tokens\.create\(features\)'):
    PRUNERS['top-norm'](tokens.features)
  with pytest.raises(ValueError, match=r'Signals\(keys=keys\)'):
    PRUNERS['tome'](tokens, signals.keys)
