"""Bad input: one error that says all that is wrong, for every way in.

Keep above N, keep 0, a ratio outside (0, 1], NaN, a signal that is not there,
rows of padding, unknown sites, another model's checkpoint.
"""

import functools
import math

import host_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from general import METHODS

from tokpress_jax import models, pruners, registry
from tokpress_jax.errors import UserError
from tokpress_jax.io import convert, safetensors
from tokpress_jax.pruners import mergers, random_inputs, selectors
from tokpress_jax.pruners.inside_vit import pitome
from tokpress_jax.types import Ratio, Signals, Tokens

ROWS, SLOTS = 4, 10
OF_COUNTS = [name for name in METHODS if name != 'tome_kth']


def make(lengths=(10, 6, 10, 3), *, num_protected=None):
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  slots = np.arange(SLOTS)[None]
  valid = slots < np.array(lengths)[:, None]
  tokens = Tokens.create(
    draw(ROWS, SLOTS, random_inputs.WIDTH),
    valid=jnp.asarray(valid),
    protected=jnp.asarray(valid & (slots == 0)),
    num_protected=num_protected,
  )
  return tokens, random_inputs.make_inputs(
    NEEDS, lengths=(SLOTS,) * ROWS, slots=SLOTS
  )[1]


def build(name, budget=None):
  if budget is None:
    budget = Ratio(ratio=1 / 2 if name == 'tome_kth' else 0.7)
  return registry.resolve(name)(budget=budget)


# What any of them reads.
NEEDS = frozenset().union(*(build(name).needs for name in METHODS))


def said_by(call, *args, **kwargs):
  """The message of the `UserError` that a call raises."""
  with pytest.raises(UserError) as error:
    call(*args, **kwargs)
  return str(error.value)


# --- pruners


@pytest.mark.parametrize('name', OF_COUNTS)
@pytest.mark.parametrize('budget', [0, -3, 10, 11])
def test_keep_outside_what_there_is(name, budget):
  message = f'a budget of {budget} tokens is outside 1 to 9, the tokens at this'
  tokens, signals = make()
  for call in (
    build(name, budget),
    build(name, budget).plan,
    functools.partial(jax.eval_shape, build(name, budget)),
  ):
    said = said_by(call, tokens, signals)
    assert message in said and 'beside 1 protected ones' in said
    assert said.count('budget of') == 1


@pytest.mark.parametrize('name', METHODS)
def test_all_causes_of_a_pruner_at_once(name):
  tokens, signals = make((10, 6, 10, 0))
  tokens = tokens.replace(features=tokens.features.at[1, 2].set(jnp.nan))
  budget = None if name == 'tome_kth' else 12
  needs = build(name).needs
  said = said_by(build(name, budget), tokens, Signals())
  causes = [
    'features of rows [1] hold NaN or infinity',
    'rows [3] are all padding; leave them out of the batch',
    *(str(n) for n in needs),
    *(['are needed but were not given'] if needs else []),
    *(['a budget of 12 tokens is outside 1 to 9'] if budget else []),
  ]
  for cause in causes:
    assert cause in said, said
  if axes := needs & {'keys', 'attention_row'}:
    broken = {
      n: getattr(signals, n).at[2, :, 4].set(jnp.inf) for n in sorted(axes)
    }
    said = said_by(build(name), make()[0], signals.replace(**broken))
    for n in axes:
      assert f'{n} of rows [2] hold NaN or infinity' in said
  # What padding holds does not count.
  tokens, signals = make()
  junk = {n: getattr(signals, n).at[1, :, 8].set(jnp.nan) for n in axes}
  tokens = tokens.replace(features=tokens.features.at[1, 8].set(jnp.nan))
  build(name).plan(tokens, signals.replace(**junk))


def test_both_budgets_of_diffrate():
  both = pruners.DiffRate(budget=12, left=11)
  said = said_by(both, *make())
  assert 'a budget of 12' in said and 'left: a budget of 11' in said
  said = said_by(pruners.diffrate_plan, [9, 1], [9, 5, 3], tokens=10)
  assert 'got 2 for pruning and 3 for merging' in said
  assert 'keeps a token beside 1 protected ones; got 1' in said
  assert 'got 2 for pruning and 0' in said_by(
    pruners.diffrate_plan, [9, 8], [], tokens=10
  )


@pytest.mark.parametrize('ratio', [0, -0.5, 1.01, float('nan')])
def test_ratios_outside_0_to_1(ratio):
  said = said_by(Ratio, ratio=ratio, of='orignal', rounding='up', minimum=0)
  for cause in (
    f'a ratio must lie in (0, 1], got {ratio}',
    "of='orignal' is not one of ('original', 'current')",
    "rounding='up' is not one of",
    'minimum=0 keeps nothing',
  ):
    assert cause in said
  assert 'in (0, 1]' in said_by(pruners.pitome_plan, ratio, depth=2)


@pytest.mark.parametrize(
  ('budget', 'hint'),
  [
    (0.5, 'give Ratio(ratio=0.5)'),
    (1.5, 'got 1.5'),
    (True, 'got True'),
    ('8', "got '8'"),
    (np.int64(8), 'give int(...)'),
  ],
)
def test_what_is_no_budget(budget, hint):
  for make_one in (
    lambda: pruners.ToMe(budget=budget),
    lambda: pruners.DiffRate(budget=3, left=budget),
  ):
    said = said_by(make_one)
    assert 'a budget is an int, Ratio, Bytes or Remove' in said and hint in said


def test_matchings_merge_at_most_a_half():
  tokens, _ = make()
  tokens = tokens.replace(features=tokens.features.at[0].set(jnp.nan))
  for cls in (pruners.ToMe, pruners.PiToMe):
    said = said_by(cls(budget=3), tokens, Signals())
    assert 'at most half of 10 tokens, 4, and this budget asks for 6' in said
    assert "['keys'] are needed" in said and 'rows [0] hold NaN' in said
  said = said_by(pruners.tome_plan, [1, -2, 3], depth=2)
  assert '3 numbers for 2 layers' in said and 'got [1, -2, 3]' in said
  assert 'inflect in [-1, 1]' in said_by(
    pruners.tome_plan, 4, depth=3, inflect=2.0
  )
  assert "unknown metric 'kyes'" in said_by(pruners.ToMe, metric='kyes')
  said = said_by(pruners.PiToMe, partition='some', margin=math.nan)
  assert "unknown partition 'some'" in said and 'margin is nan' in said


def test_protected_and_padded_rows():
  # The capacity is for `num_protected` in every row, so it must hold them all.
  tokens, signals = make((10, 6, 10, 0), num_protected=1)
  more = tokens.replace(
    protected=tokens.protected.at[2, :3].set(True).at[1, 8].set(True)
  )
  said = said_by(pruners.TopNorm(budget=20), more, signals)
  for cause in (
    'rows [2] protect more than num_protected=1',
    'rows [1] protect padding',
    'rows [3] are all padding',
    'a budget of 20 tokens is outside 1 to 9',
  ):
    assert cause in said
  # Padding is counted unless the number is given; a row with fewer protected
  # tokens than that keeps what it has.
  at = np.arange(SLOTS)[None] < np.array([2, 1, 3, 0])[:, None]
  at = at | ~np.asarray(tokens.valid)
  create = functools.partial(
    Tokens.create, tokens.features, valid=tokens.valid, protected=at
  )
  assert create().num_protected == 10
  fewer = create(num_protected=3)
  fewer = fewer.replace(valid=fewer.valid.at[3, 0].set(True))
  out, _ = pruners.TopNorm(budget=4)(fewer)
  assert out.features.shape[1] == 3 + 4
  assert out.valid.sum(axis=1).tolist() == [6, 5, 7, 1]
  for number in (-1, 11):
    said = said_by(pruners.TopNorm(), tokens.replace(num_protected=number))
    assert f'num_protected={number} is outside 0 to 10' in said


def test_constants_are_checked_while_something_else_is_traced():
  tokens, signals = make((10, 6, 10, 0))
  run = jax.jit(lambda keys: pruners.ToMe()(tokens, signals.replace(keys=keys)))
  assert 'rows [3] are all padding' in said_by(run, signals.keys)


def test_keys_of_a_draw():
  tokens, signals = make()
  for rng in (jax.random.key(0), jnp.zeros((ROWS, 2), jnp.uint32)):
    said = said_by(pruners.Random(), tokens, signals.replace(rng=rng))
    assert f'a typed key for each of the {ROWS} rows' in said
    assert str(rng.shape) in said


# --- plain functions


ALL = {'valid': jnp.ones((ROWS, SLOTS), bool)}
ALL['protected'] = jnp.broadcast_to(jnp.arange(SLOTS) == 0, (ROWS, SLOTS))
SCORES = jnp.asarray(np.random.default_rng(1).normal(size=(ROWS, SLOTS)))
GRAM = jnp.asarray(np.random.default_rng(2).normal(size=(ROWS, SLOTS, SLOTS)))
row_of = lambda pick: GRAM[jnp.arange(ROWS), pick]
TOKENS = make((10,) * ROWS)[0]
METRIC = TOKENS.features
SELECTORS = {
  'top': lambda n: selectors.top(SCORES, count=n, **ALL),
  'spaced': lambda n: selectors.spaced(count=n, **ALL),
  'farthest': lambda n: selectors.farthest(
    row_of, start=SCORES, count=n, limit=9, **ALL
  ),
  'relevant': lambda n: selectors.relevant_and_diverse(
    SCORES, row_of, count=n, limit=9, **ALL
  ),
  'coverage': lambda n: selectors.coverage(
    SCORES, GRAM, count=n, limit=9, **ALL
  ),
  'least_similar': lambda n: selectors.least_similar(
    row_of, pivots=jnp.ones((ROWS, 1), jnp.int32), count=n, **ALL
  ),
  'duplicates': lambda n: selectors.without_duplicates(GRAM, count=n, **ALL),
  'chunks': lambda n: selectors.top_chunks(SCORES, size=2, count=n, **ALL),
  'staged': lambda n: selectors.staged(
    [(None, lambda count, kept: ALL['valid'])], count=n, **ALL
  ),
  'dpc_knn': lambda n: pruners.dpc_knn(METRIC, TOKENS, count=n, capacity=10),
  'uniform': lambda n: pruners.uniform_targets(
    METRIC, TOKENS, count=n, capacity=10
  ),
}
MATCHINGS = {
  'bipartite': lambda n, most=4: mergers.bipartite(
    METRIC, TOKENS, count=n, num_merged=most
  ),
  'pitome': lambda n, most=4: pitome.energy_bipartite(
    METRIC, TOKENS, count=n, num_merged=most
  ),
  'random': lambda n, most=4: mergers.random_bipartite(
    METRIC,
    TOKENS,
    rng=jax.random.split(jax.random.key(0), ROWS),
    count=n,
    num_merged=most,
  ),
}


@pytest.mark.parametrize('name', SELECTORS)
def test_counts_of_functions(name):
  run = SELECTORS[name]
  for number in (0, -1, 10, 11):
    assert f'count={number} is outside 1 to 9' in said_by(run, number)
  bad = jnp.array([3, 11, 0, -1])
  assert 'count of rows [1, 3] is outside 0 to 10' in said_by(run, bad)
  for wrong in (jnp.ones(ROWS), jnp.ones((1,), jnp.int32), 2.0):
    assert f'count must be one whole number, or int [B={ROWS}]' in said_by(
      run, wrong
    )
  # One number is the same number for each row.
  one, each = run(3), run(jnp.full((ROWS,), 3))
  jax.tree.map(np.testing.assert_array_equal, one, each)


@pytest.mark.parametrize('name', MATCHINGS)
def test_counts_of_matchings(name):
  run = MATCHINGS[name]
  for number in (-1, 5):
    assert f'count={number} is outside 0 to 4' in said_by(run, number)
  said = said_by(run, jnp.array([1, -2, 3, 11]), 10)
  assert 'count of rows [1, 3] is outside 0 to 10' in said
  assert f'num_merged=10 is outside 0 to {9 if name == "random" else 5}' in said
  one, each = run(3), run(jnp.full((ROWS,), 3))
  jax.tree.map(np.testing.assert_array_equal, one, each)


def test_all_causes_of_a_function_at_once():
  said = said_by(
    selectors.farthest,
    row_of,
    start=SCORES[:, :9],
    weight=SCORES[:1],
    count=99,
    limit=0,
    **ALL,
  )
  for cause in (
    'start must begin with [B=4, N=10] as valid does, got (4, 9)',
    'weight must begin with [B=4, N=10] as valid does, got (1, 10)',
    'limit=0 is outside 1 to 10',
    'count=99 is outside 1 to 10',
  ):
    assert cause in said
  with pytest.raises(UserError, match=r'\[B, G\].*got \(4,\)'):
    selectors.top_grouped(
      SCORES, group=jnp.zeros((ROWS, SLOTS), int), counts=jnp.ones(4), **ALL
    )
  with pytest.raises(UserError, match=r'count of rows \[0\] is outside'):
    selectors.top_grouped(
      SCORES,
      group=jnp.zeros((ROWS, SLOTS), int),
      counts=jnp.full((ROWS, 2), 3).at[0, 1].set(-1),
      **ALL,
    )


@pytest.mark.parametrize(
  'call',
  [
    lambda kept, k: pruners.selection(TOKENS, kept, capacity=k),
    lambda kept, k: pruners.nearest_kept(METRIC, TOKENS, kept=kept, capacity=k),
    lambda kept, k: pruners.soft_assign(METRIC, TOKENS, kept=kept, capacity=k),
    lambda kept, k: pruners.knn_weighted(
      METRIC, TOKENS, kept=kept, weights=SCORES, capacity=k
    ),
  ],
)
def test_slots_that_do_not_hold_what_is_kept(call):
  kept = ALL['protected'].at[2, :6].set(True)
  call(kept, 6)
  assert 'rows [2] keep up to 6 tokens, and capacity=5' in said_by(
    call, kept, 5
  )
  assert 'capacity=-1 is below 0' in said_by(call, kept, -1)


# --- hosts and checkpoints


HOST = models.ViTConfig(
  image_size=8, patch=4, width=8, depth=2, heads=2, classes=3
)


KEY = jax.random.key(0)


@functools.cache
def host():
  module = HOST.build()
  images = jnp.zeros((2, 8, 8, 3))
  return module, module.init(jax.random.key(0), images), images


def test_all_causes_of_a_host_at_once():
  module, variables, images = host()
  said = said_by(
    module.apply,
    variables,
    images.at[1, 0].set(jnp.nan),
    plan=(
      ('block_0.after_atention', pruners.ToMe()),
      ('block_2.after_mlp', pruners.ToMe()),
      ('embed', pruners.ToMe()),
      ('block_0.after_mlp', pruners.Random()),
      ('tower_out', pruners.TopNorm),
      pruners.TopNorm(),
    ),
    hidden=(0, 9),
  )
  for cause in (
    'images [1] hold NaN or infinity',
    "unknown site 'block_0.after_atention'",
    "try 'block_0.after_attention'",
    "unknown site 'block_2.after_mlp'",
    "ToMe needs ['keys'], and site 'embed' gives",
    "Random needs ['rng']",
    "got ('tower_out', <class",
    'got TopNorm(budget=',
    'asks for tokens after layers [9]',
  ):
    assert cause in said, (cause, said)
  said = said_by(
    module.apply,
    variables,
    jnp.zeros((2, 8, 6, 3), jnp.uint8),
    plan={'embed': pruners.TopNorm()},
    rng=jnp.zeros((2, 2), jnp.uint32),
  )
  for cause in (
    'takes images of (8, 8, 3), as [B, H, W, C], got (2, 8, 6, 3)',
    'floats in [-1, 1], got uint8',
    'a plan is a tuple of (site, pruner) pairs',
    'rng must be a typed key',
  ):
    assert cause in said, (cause, said)
  assert 'got (8, 8, 3)' in said_by(module.apply, variables, images[0])


def test_keys_and_pixels_of_a_host():
  module, variables, images = host()
  calls = {
    'call': functools.partial(module.apply, variables),
    'observe': functools.partial(module.apply, variables, method='observe'),
  }
  for run in calls.values():
    for rng in (0, 'seed', jax.random.PRNGKey(0), jax.random.split(KEY, 3)):
      said = said_by(run, images, rng=rng)
      assert 'rng must be a typed key, as jax.random.key(0)' in said
    said = said_by(run, 255 * (images + 1))
    assert 'got values up to 255; give images / 127.5 - 1' in said
    assert 'an array of floats in [-1, 1], got list' in said_by(run, [0.5])


@pytest.mark.parametrize('budget', [0, 5])
def test_a_host_names_the_site_of_a_budget_that_does_not_fit(budget):
  module, variables, images = host()
  plan = (('block_1.after_attention', pruners.TopNorm(budget=budget)),)
  for run in (module.apply, jax.jit(module.apply, static_argnames='plan')):
    said = said_by(run, variables, images, plan=plan)
    assert "TopNorm at site 'block_1.after_attention'" in said
    assert f'a budget of {budget} tokens is outside 1 to 4' in said


@pytest.mark.parametrize('name', ['siglip', 'deit-one'])
def test_the_checkpoint_of_another_model(name, tmp_path):
  file = tmp_path / 'model.safetensors'
  theirs = host_cases.tensors(name)
  del theirs[min(n for n in theirs if 'fc1' in n or 'intermediate' in n)]
  safetensors.save(file, theirs)
  said = said_by(convert.convert, file, 'vit-b16')
  assert 'is of another model than this config' in said
  shapes = jax.eval_shape(
    models.ViTConfig().build().init,
    jax.random.key(0),
    jnp.zeros((1, 224, 224, 3)),
  )
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    own = '/'.join(k.key for k in path)
    lines = [x for x in said.splitlines() if x.strip().startswith(own)]
    assert any(str(leaf.shape) in x or 'has rows' in x for x in lines), own
  unused = {
    'siglip': ['probe', 'attention.in_proj_weight', 'mlp.fc2.bias'],
    'deit-one': ['distillation_token'],
  }
  assert 'not used' in said
  for tensor in unused[name]:
    assert tensor in said
