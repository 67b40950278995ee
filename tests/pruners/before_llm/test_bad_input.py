"""Bad input of pruners: each case ends in one error that says what to try.

`CASES` break the input of every row of the family's table; `OWN` is what only
some methods can be given: crops, frames, grids, places, texts.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_rows import PRUNERS

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm, compressors, reduction, testing
from tokpress_jax.types import Ratio, Signals, Tap, Tokens

refuse = functools.partial(pytest.raises, UserError)


@functools.cache
def inputs(name):
  pruner, on = PRUNERS[name]
  return (testing.Inputs() if on is None else on).make(pruner.needs)


def cut(x, axis):
  return jnp.take(x, jnp.arange(x.shape[axis] - 1), axis=axis)


def with_signal(signals, need, value):
  if isinstance(need, Tap):
    return signals.replace(taps={**signals.taps, need: value})
  return signals.replace(**{need: value})


def broken_signals(pruner, tokens, signals):
  """Each signal that is read, of other slots, and as a list."""
  for need in sorted(pruner.needs, key=str):
    field = need.signal if isinstance(need, Tap) else need
    if field not in reduction.SIGNAL_AXES:
      continue
    axis = reduction.SIGNAL_AXES[field].index('N')
    for value in (cut(signals.get(need), axis), [0.5], 0.5):
      yield tokens, with_signal(signals, need, value), rf'{field}.* must be \['


def broken_text(pruner, tokens, signals):
  if 'text' in pruner.needs:
    text, rows = signals.text, signals.text.shape[0]
    for value in (text[..., 1:], text[0], text[1:], 'a cat'):
      yield tokens, signals.replace(text=value), r'text must be \[B, M, D\]'
    nan = signals.replace(text=text.at[3].set(jnp.nan), text_valid=None)
    if 'text_valid' not in pruner.needs:
      yield tokens, nan, r'text of rows \[3\] hold NaN'
    there = jnp.ones(text.shape[:2], bool)
    none = signals.replace(text_valid=there.at[2].set(False))
    yield tokens, none, r'text_valid of rows \[2\] has no word'
    for value in (there[:, 1:], there[1:], there.astype(float), True):
      message = rf'text_valid must be bool \[{rows}, 3\]'
      yield tokens, signals.replace(text_valid=value), message


def broken_keys(pruner, tokens, signals):
  if 'rng' in pruner.needs:
    for rng in (0, jax.random.key(0), jax.random.PRNGKey(0), 'seed'):
      yield (
        tokens,
        signals.replace(rng=rng),
        'rng must hold a typed key for each',
      )


def broken_tokens(pruner, tokens, signals):
  x = tokens
  for wrong in (
    x.replace(features=x.features[..., 0]),
    x.replace(features=x.features[:, 1:]),
    x.replace(positions=x.positions[..., 0]),
    x.replace(positions=x.positions[:, 1:]),
    x.replace(valid=x.valid[1:]),
    x.replace(protected=x.protected[:, 1:]),
    x.replace(owner=x.owner[..., None]),
    x.replace(mass=x.mass[0]),
  ):
    yield wrong, signals, r'features must be \[B, N, D\], positions \[B, N, P\]'


def no_structs(pruner, tokens, signals):
  yield tokens.features, signals, r'wrap arrays, as in Tokens\.create'
  yield tokens, [signals], r'wrap arrays, as in Signals'


CASES = (
  broken_signals,
  broken_text,
  broken_keys,
  broken_tokens,
  no_structs,
)


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.__name__)
def test_each_pruner_refuses(case):
  number = 0
  for name, (pruner, _) in PRUNERS.items():
    for tokens, signals, message in case(pruner, *inputs(name)):
      with refuse(match=message):
        pruner.plan(tokens, signals)
      number += 1
  assert number >= 8


@pytest.mark.parametrize('budget', [0, -1, 1000, 0.5, True, '8', None])
def test_each_pruner_refuses_a_budget_of(budget):
  number = 0
  for name, (pruner, _) in PRUNERS.items():
    if not hasattr(pruner, 'budget'):
      continue
    with refuse(match=r'budget|Ratio\('):
      wrong = dataclasses.replace(pruner, budget=budget)
      jax.eval_shape(wrong, *inputs(name))
    number += 1
  assert number > 30


FIELDS = [
  (before_llm.HiPrune, {'share': 1.5}, r'share lies in 0 to 1, got 1\.5'),
  (before_llm.HiPrune, {'share': 'x'}, "share is a number, got 'x'"),
  (before_llm.HiPrune, {'middle': 2.5}, 'middle is a whole number, got 2.5'),
  (before_llm.HiPrune, {'width': 'x'}, "width is a whole number, got 'x'"),
  (before_llm.HiPrune, {'width': 0}, 'width is at least 1, got 0'),
  (before_llm.VisPruner, {'share': -1}, 'share lies in 0 to 1'),
  (before_llm.VisPruner, {'at_once': 0}, 'at_once is at least 1'),
  (before_llm.IDPruner, {'balance': 2}, 'balance lies in 0 to 1'),
  (before_llm.IDPruner, {'at_once': True}, 'at_once is a whole number'),
  (before_llm.DART, {'image_pivots': 0}, 'got 0 and 4'),
  (before_llm.SCOPE, {'alpha': -1}, 'alpha is at least 0, got -1'),
  (before_llm.CATP, {'alignment': np.nan}, 'alignment is nan'),
  (before_llm.VTCCLS, {'layers': ()}, 'at least one layer'),
  (before_llm.VTCCLS, {'layers': [3]}, r'tuple of whole numbers, got \[3\]'),
  (before_llm.VTCCLS, {'layers': 3}, 'tuple of whole numbers, got 3'),
  (before_llm.ZOOPrune, {'project': 3}, 'project is the projector'),
  (before_llm.ZOOPrune, {'project': jnp.tanh, 'directions': 0}, 'at least 1'),
  (before_llm.ZOOPrune, {'project': jnp.tanh, 'step': 0}, 'at least 1e-06'),
  (before_llm.GlobalCom2, {'temperature': 0}, 'temperature is at least 1e-06'),
  (before_llm.PruMerge, {'neighbours': 0}, 'neighbours is at least 1'),
  (before_llm.PruMergePlus, {'step': 0}, 'step is at least 1, got 0'),
  (before_llm.Recoverable, {'neighbours': 0}, 'neighbours is at least 1'),
  (before_llm.Recoverable, {'outlier_neighbours': (5, 5)}, '3 numbers'),
  (before_llm.Recoverable, {'outlier_neighbours': (5, 5, 0)}, 'at least 1'),
  (before_llm.TokenCorr, {'similarity': 2}, 'similarity lies in -1 to 1'),
  (before_llm.VisionZip, {'contextual': 0.5}, r'give Ratio\(ratio=0\.5\)'),
  (before_llm.DTD, {'threshold': '0.5'}, "threshold is a number, got '0.5'"),
  (before_llm.DyCoke, {'budget': 64}, r'give Ratio\(ratio=...\), got 64'),
  (before_llm.PPE, {'neighbours': 0}, 'neighbours is at least 1'),
  (before_llm.DivPrune, {'positions': 'kept'}, "position policy 'kept'"),
  (before_llm.DivPrune, {'positions': 3}, 'position policy 3'),
  (before_llm.DivPrune, {'order': 'rank'}, "unknown order 'rank'"),
  (pruners.Members, {'count': 0}, 'count is a whole number from 1 on, got 0'),
  (pruners.Members, {'count': '5'}, "from 1 on, got '5'"),
  (compressors.SliME, {'mass': 1.5}, 'mass lies in 1e-06 to 1'),
  (compressors.LLaVolta, {'stride': 2.5}, 'stride is a whole number'),
  (compressors.LLaVolta, {'stride': 0}, 'stride is at least 1'),
  (compressors.Curriculum, {'strides': 2}, 'strides is a tuple of whole'),
]


@pytest.mark.parametrize(
  ('cls', 'fields', 'message'),
  FIELDS,
  ids=[f'{c.__name__}-{"-".join(f)}' for c, f, _ in FIELDS],
)
def test_fields_are_checked_when_it_is_made(cls, fields, message):
  with refuse(match=message):
    cls(**fields)


# What a method wants of its tokens.


def tokens_of(*, slots=12, axes=1, grids=()):
  x = np.random.default_rng(0).normal(size=(1, slots, 4)).astype(np.float32)
  at = np.broadcast_to(np.arange(slots)[None, :, None], (1, slots, axes))
  return Tokens.create(x, positions=at, grids=grids)


def signals_of(pruner, slots=12):
  found = {}
  for need in pruner.needs:
    shape = (1, 2, slots, 3) if need.signal == 'keys' else (1, 2, slots)
    found[need] = jnp.ones(shape)
  return Signals(taps=found)


FOUR = ((1, 1, 3),) * 4
OWN = {
  'crops that are none': (
    before_llm.HiRED(),
    tokens_of(axes=2),
    'at least 2 equal grids.*got grids',
  ),
  'one crop': (
    before_llm.GlobalCom2(),
    tokens_of(axes=2, grids=((1, 3, 4),)),
    r'at least 2 equal grids.*got grids \(\(1, 3, 4\),\)',
  ),
  'crops without a layout': (
    before_llm.HiRED(),
    tokens_of(axes=2, grids=FOUR),
    r'nothing says where the crops lie; call place_crops',
  ),
  'crops of other sizes': (
    before_llm.GlobalCom2(),
    tokens_of(axes=2, grids=((1, 2, 3), (1, 1, 3), (1, 1, 3))),
    'at least 2 equal grids',
  ),
  'no frames': (before_llm.DTD(), tokens_of(), r'got grids \(\)'),
  'frames of other sizes': (
    before_llm.DyCoke(),
    tokens_of(grids=((1, 2, 4), (1, 2, 2))),
    'whole frames of one size',
  ),
  'fewer frames than the grid says': (
    before_llm.DTD(),
    tokens_of(grids=((5, 1, 3),)),
    r'12 slots of whole frames.*got grids \(\(5, 1, 3\),\)',
  ),
  'a grid that is not that of the tokens': (
    before_llm.HiPrune(budget=5),
    tokens_of(grids=((1, 3, 3),)),
    r'one whole grid, got 12 tokens and grids \(\(1, 3, 3\),\)',
  ),
  'no grid': (
    before_llm.HiPrune(budget=5),
    tokens_of(),
    'before join_crops.*or give width',
  ),
  'windows without rows and columns': (
    before_llm.MustDrop(),
    tokens_of(),
    r'windows of 2 axes \(3, 3\) need coordinates of as many',
  ),
  'pooling without rows and columns': (
    compressors.M3(budget=3),
    tokens_of(),
    'windows of 2 axes',
  ),
  'a number that pooling cannot give': (
    compressors.M3(budget=5),
    tokens_of(axes=2),
    '12 tokens do not become 5 by windows',
  ),
  'no places in space': (
    before_llm.SeGPruner(),
    tokens_of(axes=2),
    r'positions \[B, N, 3\], got \(1, 12, 2\)',
  ),
  'places of one axis': (
    before_llm.PPE(positions=pruners.Members(count=8, axes=1)),
    tokens_of(axes=3),
    '8 members of 1 axes do not come from positions of 3 axes',
  ),
  'fewer slots than an image has': (
    compressors.LLaVolta(),
    tokens_of(),
    '12 slots has no 1 images of 576',
  ),
}


@pytest.mark.parametrize('name', OWN)
def test_what_a_method_wants_of_its_tokens(name):
  pruner, tokens, message = OWN[name]
  with refuse(match=message):
    jax.eval_shape(pruner.plan, tokens, signals_of(pruner))


@pytest.mark.parametrize(
  ('layout', 'message'),
  [
    ([[1, 2]], r'crops \[1, 2, 3\] of image 0 do not tile it in 1 rows and 2'),
    ([[2, 2]], 'do not tile it in 2 rows and 2 columns'),
    ([[0, 3]], 'layout of 0 rows and 3 columns of crops; give 1'),
    ([[-1, -3]], 'layout of -1 rows and -3 columns'),
    ([[1.0, 3.0]], 'layout is rows and columns, int, got float32'),
    ([[0, 0]], 'do not tile it in 0 rows'),
    ([1, 3], r'layout must be \[1, 2\].*got \(2,\)'),
  ],
)
def test_crops_that_do_not_tile_the_image(layout, message):
  owner = np.repeat(np.arange(4), 3)[None]
  tokens = tokens_of(axes=2, grids=FOUR)
  tokens = tokens.replace(owner=jnp.asarray(owner))
  with refuse(match=message):
    pruners.place_crops(tokens, layout=jnp.asarray(layout))


def test_rows_that_are_no_crops_of_images():
  tokens = tokens_of(axes=2)
  for crops in (0, 2, 2.0, '2'):
    with refuse(match='no whole number of images'):
      pruners.join_crops(tokens, crops=crops)
  with refuse(match=r'valid must be \[1, 1\]'):
    pruners.join_crops(tokens, crops=1, valid=jnp.ones((1, 2), bool))


def test_one_frame_and_one_crop_of_any_method():
  """Nothing to compare with, and so nothing is dropped for that."""
  tokens = tokens_of(axes=3, grids=((1, 3, 4),))
  for pruner in (before_llm.DTD(budget=Ratio(ratio=0.2)), before_llm.DyCoke()):
    out, _ = jax.jit(pruner)(tokens)
    np.testing.assert_array_equal(out.features, tokens.features)
  pruner = before_llm.TokenCorr(budget=3)
  out, _ = jax.jit(pruner)(tokens, signals_of(pruner))
  assert 1 <= out.valid.sum() <= 3


TEXT = {
  'text': jnp.ones((8, 2, 3)),  # of another width, too
  'text_valid': jnp.zeros((8, 2), bool),
}


def test_a_text_is_not_read_by_methods_that_take_none_and_it_is_said():
  readers = set()
  for name, (pruner, _) in PRUNERS.items():
    tokens, signals = inputs(name)
    given = signals.replace(**TEXT)
    if 'text' in pruner.needs:
      readers.add(type(pruner).__name__)
      assert pruners.unread(given, pruner) == ()
      continue
    assert pruners.unread(given, pruner) == ('text', 'text_valid')
    # Shapes say that it is taken; that nothing depends on it:
    jaxpr = jax.make_jaxpr(lambda t, s, p=pruner: p.plan(t, s).index)
    closed = jaxpr(tokens, given).jaxpr
    place = [
      i
      for i, x in enumerate(jax.tree.leaves((tokens, given)))
      if x is TEXT['text'] or x is TEXT['text_valid']
    ]
    read = {v for e in closed.eqns for v in e.invars if hasattr(v, 'count')}
    assert len(place) == 2 and not read & {closed.invars[i] for i in place}
  assert readers == {'CATP', 'SliME'}


def test_unread_of_several_pruners():
  signals = Signals(
    text=TEXT['text'],
    text_valid=TEXT['text_valid'],
    importance=jnp.ones((8, 3)),
    taps={Tap('keys', -1): jnp.ones((8, 1, 3, 2))},
  )
  both = (before_llm.CATP(), before_llm.IDPruner())
  assert pruners.unread(signals, *both) == ("Tap(signal='keys', layer=-1)",)
  assert len(pruners.unread(signals)) == 4
