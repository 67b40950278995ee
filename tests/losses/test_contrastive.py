"""Contrastive losses against sums by hand, other packages and other meshes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from tokpress_jax import losses

BOTH = pytest.mark.parametrize('loss', [losses.clip_loss, losses.siglip_loss])


def logits(size=6, seed=0):
  x = np.random.default_rng(seed).normal(size=(size, size))
  return (3 * x).astype(np.float32)


def clip_by_hand(x, rows, same):
  """A softmax for each row and column that counts, one by one."""
  found = []
  for table, right in ((x, same), (x.T, same.T)):
    for i in rows:
      total = sum(np.exp(table[i, j]) for j in rows)
      fitting = [j for j in rows if right[i, j]]
      found.append(
        -np.mean([np.log(np.exp(table[i, j]) / total) for j in fitting])
      )
  return np.mean(found)


def siglip_by_hand(x, rows, same):
  """Each pair by itself."""
  total = 0.0
  for i in rows:
    for j in rows:
      sign = 1 if same[i, j] else -1
      total -= np.log(1 / (1 + np.exp(-sign * x[i, j])))
  return total / len(rows)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('repeated', [False, True])
@pytest.mark.parametrize(
  'loss, by_hand',
  [
    (losses.clip_loss, clip_by_hand),
    (losses.siglip_loss, siglip_by_hand),
  ],
)
def test_losses_are_sums_by_hand(loss, by_hand, masked, repeated):
  codes = np.array([[1, 2], [3, 4], [1, 2], [2, 1], [1, 2], [5, 6]])
  x, rows = logits(), [0, 1, 2, 3, 5] if masked else range(6)
  mask = np.isin(np.arange(6), rows) if masked else None
  same = (codes[:, None] == codes[None]).all(-1) if repeated else np.eye(6) > 0
  given = losses.same_rows(jnp.asarray(codes)) if repeated else None
  found = loss(jnp.asarray(x), mask=mask, same=given)
  assert found.dtype == jnp.float32
  np.testing.assert_allclose(found, by_hand(x, list(rows), same), rtol=1e-5)


@BOTH
def test_what_is_masked_changes_nothing(loss):
  x, mask = logits(), np.array([True] * 4 + [False] * 2)
  wild = x.copy()
  wild[4:], wild[:, 4:] = np.nan, np.inf
  value, slope = jax.value_and_grad(loss)(jnp.asarray(wild), mask=mask)
  alone, own = jax.value_and_grad(loss)(jnp.asarray(x[:4, :4]))
  np.testing.assert_allclose(value, alone, rtol=1e-6)
  np.testing.assert_allclose(slope[:4, :4], own, atol=1e-6)
  assert not np.any(slope[4:]) and not np.any(slope[:, 4:])
  nothing = loss(jnp.asarray(x), mask=np.zeros(6, bool))
  assert nothing == 0


@BOTH
def test_texts_that_repeat_do_not_push_their_images_away(loss):
  """Two images of one text want the same logits with either copy of it."""
  same = jnp.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
  slope = jax.grad(loss)(jnp.zeros((3, 3)), same=same)
  assert (slope[same] < 0).all() and (slope[~same] > 0).all()
  assert (jax.grad(loss)(jnp.zeros((3, 3)))[0, 1] > 0).all()


@BOTH
def test_a_batch_on_eight_devices_has_all_its_negatives(loss):
  rng = np.random.default_rng(1)
  images, texts = rng.normal(size=(2, 16, 4)).astype(np.float32)
  codes = rng.integers(0, 2, (16, 3)).astype(np.int32)
  mask = np.arange(16) < 13

  def of(images, texts, codes, mask):
    same = losses.same_rows(codes)
    return loss(images @ texts.T, mask=mask, same=same)

  step = jax.jit(jax.value_and_grad(of))
  value, slope = step(images, texts, codes, mask)
  mesh = jax.make_mesh(
    (8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = NamedSharding(mesh, PartitionSpec('data'))
  parts = jax.device_put((images, texts, codes, mask), spread)
  other, spread_slope = step(*parts)
  np.testing.assert_allclose(other, value, rtol=1e-5)
  np.testing.assert_allclose(spread_slope, slope, atol=1e-5)


@BOTH
def test_logits_are_of_pairs(loss):
  with pytest.raises(ValueError, match=r'\[B, B\]'):
    loss(jnp.zeros((2, 3)))
