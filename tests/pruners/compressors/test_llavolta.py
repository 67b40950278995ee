"""LLaVolta: pooling, positions and the curriculum, against official code."""

import compressors_case as case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import compressors
from tokpress_jax.types import TEXT, VISION, Tokens

START, IMAGE = case.VOLTA['start'], case.VOLTA['image']
STOP = START + IMAGE
SLOTS = case.VOLTA['length']


def golden(name):
  with np.load(case.GOLDEN) as file:
    return file[name]


def row(positions=case.VOLTA_POSITIONS, **kwargs):
  at = np.arange(SLOTS)
  kind = np.where((at >= START) & (at < STOP), VISION, TEXT)
  return Tokens.create(
    jnp.asarray(case.draw('volta', 2, SLOTS, case.VOLTA['width'])),
    positions=jnp.asarray(positions, jnp.int32)[..., None],
    kind=jnp.broadcast_to(jnp.asarray(kind, jnp.int8), (2, SLOTS)),
    **kwargs,
  )


def pooled(tokens, stride=4, **kwargs):
  pruner = compressors.LLaVolta(stride=stride, length=IMAGE, **kwargs)
  return jax.jit(lambda tokens: pruner(tokens)[0])(tokens)


@pytest.mark.parametrize('stride', case.VOLTA_STRIDES)
def test_features_and_truncated_positions_are_the_official_ones(stride):
  got = pooled(row(), stride, averaging='truncated')
  want = golden(f'volta/{stride}')
  assert np.abs(got.features - want).max() < 1e-5 * want.std()
  np.testing.assert_array_equal(
    got.positions[..., 0], golden(f'volta/{stride}/positions')
  )
  assert got.positions.dtype == jnp.int32
  assert got.valid.all()


def test_half_precision_loses_positions_and_the_mean_does_not():
  stride = 2
  clean = np.asarray(pooled(row(), stride).positions[..., 0])
  at = case.VOLTA_POSITIONS
  want = at[:, START:STOP].reshape(2, -1, stride).mean(axis=2)
  np.testing.assert_array_equal(clean[:, START : START + IMAGE // 2], want)
  np.testing.assert_array_equal(clean[:, :START], at[:, :START])
  official = golden(f'volta/{stride}/positions')
  lost = (clean - official)[:, START : START + IMAGE // 2]
  np.testing.assert_array_equal(lost[0], 0.5)  # the fraction
  assert np.abs(lost[1]).max() > 1  # whole positions, beyond 2,048


def test_the_curriculum_is_the_official_one():
  curriculum = compressors.Curriculum()
  got = [curriculum.at(step) for step in range(case.VOLTA_STEPS)]
  np.testing.assert_array_equal(got, golden('volta/curriculum'))
  assert curriculum.at(0) == (8, 2) and curriculum.at(10**6) == (1, 0)


def test_what_is_left_over_is_a_shorter_mean():
  got = pooled(row(), 3)
  x = np.asarray(row().features)
  want = [x[:, a:b].mean(axis=1) for a, b in ((3, 6), (6, 9), (9, 11))]
  np.testing.assert_allclose(
    got.features[:, START : START + 3], np.stack(want, axis=1), atol=1e-6
  )
  np.testing.assert_allclose(got.mass[0], [1, 1, 1, 3, 3, 2, 1])


def test_images_are_not_mixed_and_padding_is_not_read():
  # Images of 3 and 5 tokens in the first row, the second ends in padding.
  at = np.arange(SLOTS)
  owner = jnp.broadcast_to(jnp.asarray(np.where(at < 6, 0, 1)), (2, SLOTS))
  valid = jnp.asarray(at[None] < np.array([[12], [7]]))
  tokens = row(owner=owner, valid=valid)
  tokens = tokens.replace(
    features=jnp.where(valid[..., None], tokens.features, 1e4)
  )
  pruner = compressors.LLaVolta(stride=4, length=5, images=2)
  got = jax.jit(lambda tokens: pruner(tokens)[0])(tokens)
  x = np.asarray(row().features)
  assert got.valid.shape[1] == 12 - 10 + 4
  want = [*x[0, :3], x[0, 3:6].mean(0), x[0, 6:10].mean(0), x[0, 10]]
  np.testing.assert_allclose(got.features[0, :6], want, atol=1e-6)
  want = [*x[1, :3], x[1, 3:6].mean(0), x[1, 6]]
  assert got.valid[1].tolist() == [True] * 5 + [False]
  np.testing.assert_allclose(got.features[1, :5], want, atol=1e-6)


def test_what_cannot_be_is_refused():
  with pytest.raises(UserError, match='4 strides need as many layers'):
    compressors.Curriculum(layers=(2, 2))
  with pytest.raises(UserError, match='12 slots has no 2 images of 8'):
    compressors.LLaVolta(stride=4, length=8, images=2)(row())
  with pytest.raises(UserError, match="unknown averaging 'half'"):
    compressors.LLaVolta(averaging='half')
