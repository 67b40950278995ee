"""HiRED and GlobalCom2 beside their official codes, and layouts of crops."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import merging_case as case
import numpy as np
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm, crop_layouts
from tokpress_jax.types import Ratio, Signals, Tap, Tokens

GOLDEN = np.load(pathlib.Path(__file__).parents[2] / 'golden' / 'merging.npz')
N = case.SIDE**2
MOST = 5
GRID = np.stack(np.divmod(np.arange(N), case.SIDE), axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def run(pruner, tokens, signals):
  return pruner(tokens, signals)


def images(*names, crops=MOST, padding=True):
  """Some of the case's images in one batch of thumbnails and crops."""
  columns, layouts = {}, []
  for name in names:
    (rows, cols), _ = case.CROPS[name]
    layouts.append((rows, cols))
    features, logits = case.crops(name)
    valid = np.ones((len(features), case.SIDE, case.SIDE), bool)
    if padding:
      whole = case.unpadded(name)
      cut = whole.reshape(rows, case.SIDE, cols, case.SIDE)
      valid[1:] = cut.transpose(0, 2, 1, 3).reshape(-1, case.SIDE, case.SIDE)
    rows_of = {
      'features': features,
      'valid': valid.reshape(-1, N),
      'first': case.softmax(logits[0])[..., 1:],
      'last': case.softmax(logits[1])[..., 1:],
      'logits': logits[1][..., 1:],
      'there': np.ones(len(features), bool),
    }
    for key, x in rows_of.items():
      missing = crops - len(x)
      widths = [(0, missing)] + [(0, 0)] * (x.ndim - 1)
      junk = 1e3 if x.dtype.kind == 'f' else 0
      columns.setdefault(key, []).append(
        np.pad(x, widths, constant_values=junk)
      )
  x = {k: jnp.asarray(np.concatenate(v)) for k, v in columns.items()}
  tokens = Tokens.create(
    x['features'],
    valid=x['valid'],
    positions=np.broadcast_to(GRID, (len(x['features']), N, 2)),
    grids=((1, case.SIDE, case.SIDE),),
  )
  taps = {
    Tap('attention_row', 0): x['first'],
    Tap('attention_row', -2): x['last'],
    Tap('attention_logits', -1): x['logits'],
  }
  tokens, signals = pruners.join_crops(
    tokens,
    Signals(taps=taps),
    crops=crops,
    valid=x['there'].reshape(len(names), crops),
  )
  return crop_layouts.place_crops(tokens, layout=np.array(layouts)), signals


@pytest.mark.parametrize('name', case.CROPS)
def test_hired_keeps_what_the_official_code_keeps(name):
  tokens, signals = images(name, padding=False)
  for rate, alpha in case.HIRED:
    budget = Ratio(ratio=rate, rounding='floor')
    pruner = before_llm.HiRED(budget=budget, alpha=alpha)
    got, reduction = run(pruner, tokens, signals)
    want = GOLDEN[f'hired_{name}_{rate}'].reshape(-1)
    kept = np.asarray(reduction.index[0])[np.asarray(got.valid[0])]
    np.testing.assert_array_equal(np.sort(kept), np.flatnonzero(want))
    # The thumbnail's come first, then one raster over all crops.
    places = np.asarray(tokens.positions[0])[kept]
    owner = np.asarray(got.owner[0])[np.asarray(got.valid[0])]
    width = case.SIDE * case.CROPS[name][0][1]
    order = (owner > 0) * 10**6 + places[:, 0] * width + places[:, 1]
    assert (np.diff(order) > 0).all()


def test_hired_groups_raster_places_unless_told_to_take_blocks():
  tokens, signals = images('2x2', padding=False)
  counts = {}
  for split in ('raster', 'blocks'):
    pruner = before_llm.HiRED(split=split)
    got, _ = run(pruner, tokens, signals)
    counts[split] = np.bincount(
      np.asarray(got.owner[0])[np.asarray(got.valid[0])]
    )
  row = np.asarray(signals.taps[Tap('attention_row', 0)][0, :, :N]).sum(axis=0)
  best = np.zeros(N, bool)
  best[np.argsort(-row)[: N // 2]] = True
  total = int(5 * N * 0.2)
  want = {
    'raster': best.reshape(4, -1).sum(axis=1),
    'blocks': best.reshape(2, case.SIDE // 2, 2, case.SIDE // 2)
    .sum(axis=(1, 3))
    .reshape(-1),
  }
  for split, share in want.items():
    budget = total - total // 2
    np.testing.assert_array_equal(
      counts[split], [total // 2, *(budget * share // share.sum())]
    )
  assert (counts['raster'] != counts['blocks']).any()


@pytest.mark.parametrize('name', case.CROPS)
def test_globalcom2_equals_the_official_code(name):
  tokens, signals = images(name)
  got, _ = run(before_llm.GlobalCom2(), tokens, signals)
  rows = np.asarray(got.features[0])[np.asarray(got.valid[0])]
  np.testing.assert_array_equal(rows, GOLDEN[f'globalcom2_{name}'])
  # The thumbnail is in the order of its logits, not in raster order.
  number = N // 4
  score = np.asarray(signals.taps[Tap('attention_logits', -1)])[0, :, :N]
  order = np.argsort(-score.mean(axis=0))[:number]
  np.testing.assert_array_equal(rows[:number], tokens.features[0][order])
  assert (np.diff(order) < 0).any()


def test_globalcom2_reads_logits_not_probabilities():
  tokens, signals = images('2x2')
  logits = Tap('attention_logits', -1)
  rows = jax.nn.softmax(signals.taps[logits], axis=-1)
  pruner = before_llm.GlobalCom2()
  assert pruner.needs == {logits}
  other, _ = run(pruner, tokens, Signals(taps={logits: rows}))
  got, _ = run(pruner, tokens, signals)
  assert (np.asarray(got.features) != np.asarray(other.features)).any()


@pytest.mark.parametrize(
  'pruner',
  [
    before_llm.HiRED(),
    before_llm.HiRED(split='blocks'),
    before_llm.GlobalCom2(),
  ],
)
def test_images_of_other_crops_are_chosen_from_as_alone(pruner):
  names = list(case.CROPS)
  both = run(pruner, *images(*names))
  for i, name in enumerate(names):
    rows, columns = case.CROPS[name][0]
    one = run(pruner, *images(name, crops=1 + rows * columns))
    for (tokens, reduction), at in ((both, i), (one, 0)):
      kept = np.asarray(tokens.valid[at])
      found = [
        np.asarray(x[at])[kept]
        for x in (tokens.features, tokens.owner, reduction.index)
      ]
      if at or tokens is both[0]:
        first = found
    for a, b in zip(first, found, strict=True):
      np.testing.assert_array_equal(a, b)
    assert len(found[0]) > 50


def test_an_image_without_crops_keeps_its_thumbnails_share():
  tokens, signals = images('1x3')
  alone = tokens.owner == 0
  tokens = tokens.replace(
    valid=tokens.valid & alone,
    owner=jnp.where(alone, tokens.owner, -1),
    mass=jnp.where(alone, tokens.mass, 0),
  )
  for pruner, number in (
    (before_llm.HiRED(), int(N * 0.2) // 2),
    (before_llm.GlobalCom2(), N // 4),
  ):
    got, _ = run(pruner, tokens, signals)
    assert got.valid.sum() == number
    assert (np.asarray(got.owner)[np.asarray(got.valid)] == 0).all()


def test_maps_over_crops_are_bilinear():
  torch = pytest.importorskip('torch')
  for name, ((rows, columns), _) in case.CROPS.items():
    tokens, _ = images(name)
    values = case.draw(5, 1, tokens.valid.shape[1])
    got = crop_layouts.over_crops(jnp.asarray(values), tokens)[0]
    there = case.unpadded(name)
    size = (there.any(axis=1).sum(), there.any(axis=0).sum())
    want = torch.nn.functional.interpolate(
      torch.tensor(values[:, :N].reshape(1, 1, case.SIDE, case.SIDE)),
      size=tuple(int(n) for n in size),
      mode='bilinear',
      align_corners=False,
    )[0, 0].numpy()
    inside = np.asarray(tokens.valid[0] & (tokens.owner[0] > 0))
    at = np.asarray(tokens.positions[0])[inside]
    at = at - at.min(axis=0)
    assert inside.sum() == size[0] * size[1] < N * rows * columns
    np.testing.assert_allclose(got[inside], want[at[:, 0], at[:, 1]], atol=1e-5)


def test_the_last_crops_cover_what_does_not_divide():
  side, layouts = 7, np.array([[2, 3], [3, 2], [1, 1]])
  grid = np.stack(np.divmod(np.arange(side**2), side), axis=-1)
  slots = 7 * side**2
  valid = np.arange(slots) // side**2 <= layouts.prod(axis=1)[:, None]
  tokens = Tokens.create(
    np.zeros((3, slots, 1), np.float32),
    positions=np.broadcast_to(np.tile(grid, (7, 1)), (3, slots, 2)),
    valid=valid,
    owner=np.broadcast_to(np.arange(slots) // side**2, valid.shape),
    grids=((1, side, side),) * 7,
  )
  placed = crop_layouts.place_crops(tokens, layout=layouts)
  np.testing.assert_array_equal(crop_layouts.layout_of(placed), layouts)
  got = crop_layouts.crop_of_places(placed)
  for i, (rows, columns) in enumerate(layouts):
    for n, (y, x) in enumerate(grid):
      row = min(y // (side // rows), rows - 1)
      column = min(x // (side // columns), columns - 1)
      assert got[i, n] == 1 + row * columns + column
    assert (np.asarray(got)[i, side**2 :] == -1).all()


def test_crops_that_do_not_tile_are_refused():
  tokens, signals = images('2x2')
  refuse = lambda text: pytest.raises(UserError, match=text)
  bare = Tokens.create(
    tokens.features,
    positions=jnp.broadcast_to(np.tile(GRID, (MOST, 1)), (1, MOST * N, 2)),
    owner=np.repeat(np.arange(MOST), N)[None],
    grids=tokens.grids,
  )
  with refuse(r'crops \[1, 2, 3, 4\] of image 0 do not tile it in 1 rows'):
    crop_layouts.place_crops(bare, layout=np.array([[1, 3]]))
  with refuse(r'call place_crops\(tokens, layout='):
    before_llm.HiRED()(bare, signals)  # not placed
  with refuse(r'layout must be \[1, 2\].*got \(2,\)'):
    crop_layouts.place_crops(bare, layout=np.array([2, 2]))
  with refuse('at least 2 equal grids.*without its class token'):
    crop_layouts.place_crops(bare.replace(grids=()), layout=np.array([[2, 2]]))
  with refuse(r'give Ratio\(ratio=...\), got 64'):
    before_llm.GlobalCom2(budget=64)
  with refuse('alpha lies in 0 to 1, got 2'):
    before_llm.HiRED(alpha=2)
  with refuse("unknown split 'rows'; try one of 'raster', 'blocks'"):
    before_llm.HiRED(split='rows')
