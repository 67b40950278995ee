"""Nested numbers of tokens: M3's pooling and MQT's prefixes."""

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors, join_crops
from tokpress_jax.types import Tokens

GRID = (6, 6)
SCALES = (36, 9, 4, 1)


def draw(name, *shape):
  return jnp.asarray(case.draw(name, *shape))


def tokens_of(x):
  at = np.stack(np.divmod(np.arange(36), 6), axis=-1)
  at = np.broadcast_to(at, (len(x), 36, 2))
  return Tokens.create(x, positions=jnp.asarray(at))


def windows_by_hand(x, side):
  """Means of windows of one image [36, D]."""
  x = np.asarray(x, np.float64).reshape(6, 6, -1)
  cells = [
    x[i : i + side, j : j + side].mean(axis=(0, 1))
    for i in range(0, 6, side)
    for j in range(0, 6, side)
  ]
  return np.stack(cells)


def test_scales_nest():
  x = draw('nest', 2, 36, 3)
  all_scales = compressors.nested_pool(x, grid=GRID, scales=SCALES)
  assert [y.shape[1] for y in all_scales] == list(SCALES)
  for y, side in zip(all_scales, (1, 2, 3, 6), strict=True):
    want = [windows_by_hand(row, side) for row in x]
    np.testing.assert_allclose(y, want, atol=1e-6)
  again = compressors.nested_pool(all_scales[1], grid=(3, 3), scales=(1,))[0]
  np.testing.assert_allclose(again, all_scales[3], atol=1e-6)


def test_the_published_scales():
  x = jax.ShapeDtypeStruct((2, 576, 8), jnp.bfloat16)
  out = jax.eval_shape(lambda x: compressors.nested_pool(x, grid=(24, 24)), x)
  assert [y.shape[1] for y in out] == [576, 144, 36, 9, 1]
  assert all(y.dtype == jnp.bfloat16 for y in out)


def test_loss_is_the_mean_over_scales():
  x = draw('loss', 2, 36, 3)
  loss = lambda y: jnp.sum(y**2)
  run = lambda x: compressors.nested_loss(loss, x, grid=GRID, scales=SCALES)
  want = np.mean(
    [
      sum((windows_by_hand(row, side) ** 2).sum() for row in x)
      for side in (1, 2, 3, 6)
    ]
  )
  np.testing.assert_allclose(jax.jit(run)(x), want, rtol=1e-5)
  gradient = jax.jit(jax.grad(run))(x)
  assert np.abs(gradient).min(axis=(0, 1)).max() > 0


def test_missing_crops_stay_missing():
  x = draw('crops', 6, 36, 3)
  there = jnp.asarray([[True, True, False], [True, False, False]])
  row, _ = join_crops(tokens_of(x), crops=3, valid=there)
  out, _ = jax.jit(compressors.M3(budget=12))(row)
  for image, crops in enumerate((2, 1)):
    assert out.valid[image].tolist() == [True] * 4 * crops + [False] * (
      12 - 4 * crops
    )
    want = [windows_by_hand(x[3 * image + i], 3) for i in range(crops)]
    got = out.features[image, : 4 * crops]
    np.testing.assert_allclose(got, np.concatenate(want), atol=1e-6)
  np.testing.assert_allclose(out.mass[0, :8], 9)
  np.testing.assert_allclose(out.positions[0, 1], [1, 4])


def test_numbers_that_do_not_tile_are_refused():
  x = draw('nest', 2, 36, 3)
  with pytest.raises(UserError, match='36 tokens do not become 12'):
    compressors.nested_pool(x, grid=GRID, scales=(12,))
  with pytest.raises(UserError, match='do not tile'):
    compressors.nested_pool(x, grid=(4, 9), scales=(9, 4))


def mqt(count=None, **kwargs):
  module = compressors.MQT(side=3, width=8, heads=2, out=6, grid=GRID)
  x = draw('mqt_image', 2, 36, 8)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  leaves, tree = jax.tree.flatten(shapes)
  drawn = [draw(f'mqt{i}', *s.shape) for i, s in enumerate(leaves)]
  variables = jax.tree.unflatten(tree, drawn)
  run = lambda x: module.apply(variables, x, count=count, **kwargs)
  return x, jax.jit(run)


def test_the_first_queries_do_not_see_the_others():
  x, run = mqt()
  _, few = mqt(4)
  np.testing.assert_allclose(run(x)[:, :4], few(x), atol=1e-5)
  with pytest.raises(UserError, match='1 to 9 queries, got count=10'):
    mqt(10)[1](x)


def test_keys_have_no_content():
  # What a token adds does then not depend on what the others hold.
  x, run = mqt()
  other = draw('mqt_other', 2, 36, 8)
  changed = lambda y: y.at[:, 7].set(draw('mqt_new', 2, 8))
  same = other.at[:, 7].set(x[:, 7])
  np.testing.assert_allclose(
    run(changed(x)) - run(x), run(changed(same)) - run(same), atol=1e-4
  )
  assert np.abs(run(changed(x)) - run(x)).max() > 0.01


def test_tokens_that_are_not_there_are_not_read():
  mask = jnp.asarray(np.arange(36)[None] < np.array([[36], [20]]))
  x, run = mqt(mask=mask)
  junk = jnp.where(mask[..., None], x, 100.0)
  np.testing.assert_allclose(run(x), run(junk), atol=1e-5)


def test_random_prefixes_are_even_and_all_occur():
  keys = jax.random.split(jax.random.key(0), 2_000)
  draw_one = lambda key: compressors.random_prefix(key, queries=16)
  valid = np.asarray(jax.jit(jax.vmap(draw_one))(keys))
  number = valid.sum(axis=1)
  assert sorted(set(number.tolist())) == list(range(2, 17, 2))
  assert np.bincount(number)[2::2].min() > 180  # of 250 expected
  np.testing.assert_array_equal(valid, np.arange(16)[None] < number[:, None])
