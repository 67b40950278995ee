"""HICom beyond its official code: starts, masks, frames that are missing."""

import functools

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors
from tokpress_jax.pruners.compressors import hicom_global

GRID, WIDTH = (6, 4, 3), 8
SLOTS = 72
BOTH = {'grid': GRID, 'width': WIDTH, 'text': WIDTH, 'out': 6, 'heads': 2}
LOCAL = {**BOTH, 'sizes': (4, 2, 2)}
GLOBAL = {**BOTH, 'queries': 3}


def draw(name, *shape):
  return jnp.asarray(case.draw(name, *shape))


X, TEXT, WORDS = (
  draw('hx', 2, SLOTS, WIDTH),
  draw('ht', 2, WIDTH),
  draw('hw', 2, 5, WIDTH),
)


@functools.cache
def made(kind, guide, adapt):
  cls, settings = {
    'local': (compressors.HIComLocal, LOCAL),
    'global': (compressors.HIComGlobal, GLOBAL),
  }[kind]
  return cls(**settings, guide=guide, adapt=adapt)


@functools.cache
def fresh(kind, guide, adapt):
  text = WORDS if guide == 'fine' else TEXT
  return jax.jit(made(kind, guide, adapt).init)(jax.random.key(0), X, text)


def run(kind, guide, adapt, variables, x, text, **kwargs):
  module = made(kind, guide, adapt)
  return jax.jit(lambda v, x, t: module.apply(v, x, t, **kwargs))(
    variables, x, text
  )


@pytest.mark.parametrize('guide', ['coarse', 'fine', 'direct'])
def test_what_is_adapted_starts_as_it_was(guide):
  text = WORDS if guide == 'fine' else TEXT
  adapted = fresh('local', guide, 'qkvg')
  names = [n for n in adapted['params'] if not n.startswith('adapt')]
  plain = {n: dict(adapted['params'][n]) for n in names}
  plain['guide'].pop('adapt')
  assert ('adapt_q' in adapted['params']) == (guide != 'direct')
  plain = {n: v for n, v in plain.items() if v}
  a = run('local', guide, 'qkvg', adapted, X, text)
  b = run('local', guide, '', {'params': plain}, X, text)
  np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
  alphas = [
    x
    for path, x in jax.tree_util.tree_leaves_with_path(adapted)
    if 'alpha' in jax.tree_util.keystr(path)
  ]
  assert len(alphas) == 3 + (guide != 'direct')
  assert all(x == 0 for x in alphas)


def test_frames_that_are_missing():
  # The second video has 2 of 6 frames, none of them in the second span, 2 to 5.
  module = made('local', 'coarse', '')
  variables = fresh('local', 'coarse', '')
  frames = np.arange(6)[None] < np.array([[6], [2]])
  mask = jnp.asarray(np.repeat(frames, 12, axis=1))
  junk = jnp.where(mask[..., None], X, 1e3)
  a = run('local', 'coarse', '', variables, X, TEXT, mask=mask)
  b = run('local', 'coarse', '', variables, junk, TEXT, mask=mask)
  np.testing.assert_allclose(a, b, atol=1e-5)
  there = module.region_valid(mask)
  assert there.shape == (2, 2 * 2 * 2)
  assert there[0].all() and there[1].tolist() == [True] * 4 + [False] * 4
  whole = run('local', 'coarse', '', variables, X, TEXT)
  np.testing.assert_allclose(a[0], whole[0], atol=1e-5)
  assert np.isfinite(a).all()
  tokens = compressors.as_tokens(
    a, grid=GRID, new_grid=module.new_grid, valid=there
  )
  assert tokens.valid.sum() == 12
  np.testing.assert_allclose(tokens.positions[0, 0], [1, 0.5, 0.25])


def test_an_image_is_one_frame():
  module = compressors.HIComLocal(**(LOCAL | {'grid': (1, 4, 6)}), guide='off')
  x = X[:, :24]
  variables = jax.jit(module.init)(jax.random.key(0), x)
  assert jax.jit(module.apply)(variables, x).shape == (2, 6, 6)
  assert module.new_grid == (1, 2, 3) and module.regions.shape == (6, 4)


@pytest.mark.parametrize('kind', ['local', 'global'])
def test_words_that_are_padding_are_not_read(kind):
  there = jnp.asarray(np.arange(5)[None] < np.array([[5], [2]]))
  junk = jnp.where(there[..., None], WORDS, 1e3)
  variables = fresh(kind, 'fine', '')
  a = run(kind, 'fine', '', variables, X, WORDS, text_valid=there)
  b = run(kind, 'fine', '', variables, X, junk, text_valid=there)
  np.testing.assert_allclose(a, b, atol=1e-5)
  alone = run(kind, 'fine', '', variables, X, WORDS[:, :2])
  np.testing.assert_allclose(a[1], alone[1], atol=1e-5)


def test_the_global_compressor_does_not_read_what_is_missing():
  mask = jnp.asarray(np.repeat(np.arange(6) < 4, 12)[None].repeat(2, axis=0))
  junk = jnp.where(mask[..., None], X, 1e3)
  variables = fresh('global', 'coarse', '')
  a = run('global', 'coarse', '', variables, X, TEXT, mask=mask)
  b = run('global', 'coarse', '', variables, junk, TEXT, mask=mask)
  np.testing.assert_allclose(a, b, atol=1e-5)


def test_codes_of_videos():
  got = hicom_global.video_codes((2, 3, 4), 6).reshape(2, 3, 4, 6)
  for at in np.ndindex(2, 3, 4):
    for i in range(6):
      wave = np.cos if i % 2 else np.sin
      want = sum(wave(p / 10_000 ** (2 * (i // 2) / 6)) for p in at)
      np.testing.assert_allclose(got[at][i], want, atol=1e-6)


def test_what_does_not_fit_is_refused():
  key = jax.random.key(0)
  with pytest.raises(UserError, match=r'\[B, M, E\], the words'):
    made('local', 'fine', '').init(key, X, TEXT)
  with pytest.raises(UserError, match='pooled, with B=2 and E=8, got None'):
    made('global', 'coarse', '').init(key, X)
  with pytest.raises(UserError, match="got 'near'"):
    made('local', 'near', '').init(key, X, TEXT)
  with pytest.raises(UserError, match=r"got \['x'\]"):
    made('local', 'coarse', 'xk').init(key, X, TEXT)
  with pytest.raises(UserError, match="'g' can be adapted here"):
    made('global', 'coarse', 'k').init(key, X, TEXT)
