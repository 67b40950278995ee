"""The judge on real scans that it was not trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokpress_jax.metrics import JudgeConfig, class_agreement, train_judge
from tokpress_jax.metrics.judge import augment


@pytest.fixture(scope='module')
def digits():
  datasets = pytest.importorskip('sklearn.datasets')
  selection = pytest.importorskip('sklearn.model_selection')
  data = datasets.load_digits()
  images = (data.images / 8 - 1).astype(np.float32)[..., None]
  train, test, train_labels, test_labels = selection.train_test_split(
    images, data.target, test_size=297, stratify=data.target, random_state=0
  )
  judge = train_judge(train, train_labels, num_classes=10, seed=0)
  return judge, test, test_labels


def test_accuracy_on_held_out_scans(digits):
  judge, test, labels = digits
  assert class_agreement(judge, test, labels) >= 0.97
  assert class_agreement(judge, test, (labels + 1) % 10) <= 0.03
  rng = np.random.default_rng(0)
  noise = rng.uniform(-1, 1, test.shape).astype(np.float32)
  assert class_agreement(judge, noise, labels) < 0.3


def test_outputs(digits):
  judge, test, _ = digits
  p = judge.probabilities(test)
  np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
  features = judge.features(test)
  assert features.shape == (297, judge.config.features)
  assert np.linalg.matrix_rank(features) > 32


def test_same_seed_same_judge():
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (40, 6, 5, 3)).astype(np.float32)
  labels = np.arange(40) % 2
  config = JudgeConfig(members=2, hidden=8, features=4, steps=5, flip=True)
  a, b, c = (
    train_judge(images, labels, num_classes=2, seed=seed, config=config)
    for seed in (1, 1, 2)
  )
  same = jax.tree.map(lambda x, y: np.array_equal(x, y), a.params, b.params)
  assert all(jax.tree.leaves(same))
  assert not np.array_equal(a.features(images), c.features(images))


def test_augmentation_moves_by_what_it_says():
  still = JudgeConfig(shift=0.0, turn=0.0, scale=0.0, noise=0.0)
  mirror = dataclasses.replace(still, flip=True)
  image = jax.random.uniform(jax.random.key(0), (8, 8, 1))
  key = jax.random.key(1)
  np.testing.assert_allclose(
    augment(image, key, config=still), image, atol=1e-5
  )
  mirrored = [
    augment(image, jax.random.key(i), config=mirror) for i in range(8)
  ]
  flips = [bool(jnp.allclose(m, image[:, ::-1], atol=1e-5)) for m in mirrored]
  plain = [bool(jnp.allclose(m, image, atol=1e-5)) for m in mirrored]
  assert any(flips) and any(plain)
  assert all(f != p for f, p in zip(flips, plain, strict=True))


def test_errors():
  images = np.zeros((4, 8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match='Expected float images'):
    train_judge(images, np.zeros(4, int), num_classes=2)
  with pytest.raises(ValueError, match=r'Labels lie in 0 \.\. 5'):
    train_judge(np.float32(images), np.array([0, 1, 5, 2]), num_classes=3)
