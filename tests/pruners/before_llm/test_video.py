"""DTD, DyCoke and PPE beside official codes, and videos that are shorter."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import merging_case as case
import numpy as np
import pruners_case
import pytest

from tokpress_jax import pruners
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import before_llm
from tokpress_jax.types import Ratio, Signals, Tokens

FOLDER = pathlib.Path(__file__).parents[2] / 'golden'
GOLDEN = np.load(FOLDER / 'merging.npz')
close = functools.partial(np.testing.assert_allclose, atol=1e-5, rtol=1e-5)


@functools.partial(jax.jit, static_argnums=0)
def run(pruner, tokens):
  return pruner(tokens, Signals())


def videos(*rows, frames=None, front=False):
  """Videos [T, S, D] in one batch, padded by whole frames of junk."""
  frames = max(map(len, rows)) if frames is None else frames
  size = rows[0].shape[1]
  features, valid = [], []
  for x in rows:
    missing = frames - len(x)
    ends = (missing, 0) if front else (0, missing)
    widths = (ends, (0, 0), (0, 0))
    features.append(np.pad(x, widths, constant_values=1e3))
    valid.append(np.pad(np.ones(x.shape[:2], bool), widths[:2]))
  stack = lambda x: np.stack(x).reshape(len(rows), frames * size, -1)
  return Tokens.create(
    stack(features),
    valid=stack(valid)[..., 0],
    grids=((frames, 1, size),),
  )


def kept_of(got, row=0):
  return np.asarray(got.features[row])[np.asarray(got.valid[row])]


def test_dtd_equals_the_official_code():
  c = case.DTD
  number = c['rows'] * c['columns']
  x = case.video(90, c['frames'], number)
  at = np.arange(c['frames'] * number)
  grid = np.stack(
    [at // number, at % number // c['columns'], at % c['columns']], axis=-1
  )
  tokens = videos(x).replace(positions=jnp.asarray(grid + 10)[None])
  for threshold in case.THRESHOLDS:
    pruner = before_llm.DTD(threshold=threshold, budget=Ratio(ratio=0.6))
    got, _ = run(pruner, tokens)
    text = slice(c['before'], -c['after'])
    np.testing.assert_array_equal(
      kept_of(got), GOLDEN[f'dtd_{threshold}'][text]
    )
    np.testing.assert_array_equal(  # positions are kept, as M-RoPE's are
      np.asarray(got.positions[0])[np.asarray(got.valid[0])],
      GOLDEN[f'dtd_positions_{threshold}'][text],
    )


def turning(frames):
  """[frames, 2, 2]: the first place turns by 30 degrees, the second stays."""
  angle = np.pi / 6 * np.arange(frames)
  turned = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
  return np.stack([turned, np.ones((frames, 2))], axis=1).astype(np.float32)


def test_dtd_compares_with_the_frame_before_though_it_was_dropped():
  pruner = before_llm.DTD(budget=Ratio(ratio=1.0))
  # After six frames the opposite of what was kept, but never far from the last.
  got, _ = run(pruner, videos(turning(8)))
  assert got.valid.sum() == 2 and got.positions[0, :2, 0].tolist() == [0, 1]
  strict, _ = run(before_llm.DTD(budget=9, threshold=0.9), videos(turning(8)))
  assert strict.positions[0, :, 0].tolist() == [0, 1, 2, 4, 6, 8, 10, 12, 14]


def test_dtd_keeps_what_changed_most_if_too_much_did():
  x = case.draw(4, 4, 5, 3)
  pruner = before_llm.DTD(budget=8, threshold=0.99)
  got, reduction = run(pruner, videos(x))
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  alike = (unit[1:] * unit[:-1]).sum(axis=-1).reshape(-1)
  most = 5 + np.argsort(alike)[:3]
  want = [*range(5), *sorted(most)]
  assert reduction.index[0].tolist() == want and got.valid.all()


def test_a_video_of_one_frame_is_kept_whole():
  x = case.draw(5, 1, 6, 3)
  for pruner in (
    before_llm.DTD(budget=Ratio(ratio=0.2)),
    before_llm.DyCoke(),
  ):
    for tokens in (videos(x), videos(x, case.draw(6, 3, 6, 3))):
      got, _ = run(pruner, tokens)
      np.testing.assert_array_equal(kept_of(got), x[0])


def test_dycoke_equals_lightcompress():
  for frames in case.DYCOKE:
    x = case.video(95, frames, 10)
    got, _ = run(before_llm.DyCoke(), videos(x))
    want = GOLDEN[f'dycoke_{frames}']
    assert got.valid.all() and len(want) == got.valid.shape[1]
    order = lambda rows: rows[np.lexsort(rows.T)]
    np.testing.assert_array_equal(order(kept_of(got)), order(want))


def dycoke_oracle(x, kept):
  """Slots that stay, for any number of frames."""
  unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
  slots = []
  for i in range(len(x)):
    back = 1 if i % 2 else 2 if i % 4 == 2 and i < len(x) - 2 else 0
    places = range(x.shape[1])
    if back:
      alike = (unit[i] * unit[i - back]).sum(axis=-1)
      places = sorted(np.argsort(alike)[:kept])
    slots += [i * x.shape[1] + int(p) for p in places]
  return slots


@pytest.mark.parametrize('front', [False, True])
def test_shorter_videos_equal_single_ones(front):
  rows = [case.video(60 + t, t, 6) for t in (7, 3, 5, 7, 2)]
  tokens = videos(*rows, front=front)
  dycoke, reduction = run(before_llm.DyCoke(budget=Ratio(ratio=0.5)), tokens)
  pruner = before_llm.DTD(budget=Ratio(ratio=0.6))
  dtd, _ = run(pruner, tokens)
  for i, x in enumerate(rows):
    shift = (7 - len(x)) * 6 * front
    found = np.asarray(reduction.index[i])[np.asarray(dycoke.valid[i])]
    assert (found - shift).tolist() == dycoke_oracle(x, 3)
    alone, _ = run(pruner, videos(x))
    np.testing.assert_array_equal(kept_of(dtd, i), kept_of(alone))


def test_ppe_equals_the_official_code():
  golden = np.load(FOLDER / 'pruners.npz')
  at = np.arange(17)
  grid = np.stack([at // 10, at // 4, at % 4], axis=-1)
  tokens = Tokens.create(
    pruners_case.features(), positions=jnp.broadcast_to(grid, (2, 17, 3))
  )
  four = pruners.Members(count=4, axes=3)
  got, _ = run(before_llm.PPE(budget=6, positions=four), tokens)
  for i in range(2):
    close(got.features[i], golden[f'ppe_features_{i}'])
    np.testing.assert_array_equal(got.positions[i].T, golden[f'ppe_{i}'])
  # 0.45 of 17, rounded up, at the places of 8 members; again, they stay 8.
  got, _ = run(before_llm.PPE(), tokens)
  assert got.positions.shape == (2, 8, 24)
  again, _ = run(before_llm.PPE(), got)
  assert again.positions.shape == (2, 4, 24)
  some = {tuple(p) for p in np.asarray(got.positions[0]).tolist()}
  assert {tuple(p) for p in np.asarray(again.positions[0]).tolist()} <= some


def test_ppe_on_padded_rows():
  x, grid = pruners_case.features(), np.arange(17)
  grid = np.stack([grid // 10, grid // 4, grid % 4], axis=-1)
  make = lambda n, slots: Tokens.create(
    np.where(np.arange(slots)[:, None] < n, x[:1, :slots], 1e3),
    positions=jnp.asarray(grid)[None, :slots],
    valid=jnp.asarray(np.arange(slots) < n)[None],
  )
  got, _ = run(before_llm.PPE(), make(11, 17))
  want, _ = run(before_llm.PPE(), make(11, 11))
  number = int(want.valid.sum())
  assert got.valid.sum() == number == 5
  close(got.features[:, :number], want.features)
  np.testing.assert_array_equal(got.positions[:, :number], want.positions)


def test_what_does_not_fit_is_said():
  refuse = lambda text: pytest.raises(UserError, match=text)
  with refuse('5 positions per axis do not divide the sections'):
    before_llm.PPE(positions=pruners.Members(count=5, axes=3))
  bare = Tokens.create(case.draw(1, 1, 12, 3))
  for pruner in (before_llm.DTD(), before_llm.DyCoke()):
    with refuse(r'whole frames of one size, got grids \(\)'):
      pruner(bare)
    with refuse(r'12 slots.*got grids \(\(5, 1, 2\),\)'):
      pruner(bare.replace(grids=((5, 1, 2),)))
  with refuse('lies in -1 to 1, got 2'):
    before_llm.DTD(threshold=2)
  with refuse(r'give Ratio\(ratio=...\), got 3'):
    before_llm.DyCoke(budget=3)
