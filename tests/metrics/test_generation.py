"""Scores of sets of images, on features that need no network."""

import numpy as np
import pytest
from inception_case import features, golden

from tokpress_jax import metrics
from tokpress_jax.errors import UserError
from tokpress_jax.metrics import features as features_lib

SIZES = {'pool': 24, 'spatial': 20, 'logits_unbiased': 12}


class Extractor:
  """Stands in for the network: features are fixed mixtures of the pixels."""

  batch_size = 16

  def __init__(self):
    rng = np.random.default_rng(0)
    self.mix = {k: rng.normal(size=(48, n)) for k, n in SIZES.items()}

  def features(self, images):
    x = np.float64(images.reshape(len(images), -1)) / 255 - 0.4
    found = {k: np.maximum(x @ m, -0.5) for k, m in self.mix.items()}
    return {k: np.float32(x) for k, x in found.items()}

  def dispatch(self, images, names):
    lost = self.batch_size - len(images)
    assert lost >= 0
    padded = np.concatenate([images, np.full((lost, 4, 4, 3), 255, np.uint8)])
    found = self.features(padded)
    return {name: found[name] for name in names}


def _images(count, seed):
  rng = np.random.default_rng(seed)
  base = rng.integers(0, 200, (count, 1, 1, 3))
  return np.uint8(base + rng.integers(0, 56, (count, 4, 4, 3)))


SAMPLES, REFERENCE = _images(150, 1), _images(120, 2)


def _measure(batches, reference=REFERENCE):
  extractor = Extractor()
  return metrics.compare(
    metrics.collect(extractor, batches), metrics.collect(extractor, [reference])
  )


def _frechet(x, y):
  """Equation 6 of the paper, in float64."""
  linalg = pytest.importorskip('scipy.linalg')
  x, y = np.float64(x), np.float64(y)
  c1, c2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = linalg.sqrtm(c1 @ c2).real
  return ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(c1 + c2 - 2 * root)


def test_all_numbers_equal_their_definitions():
  found = _measure([SAMPLES])
  ours, theirs = map(Extractor().features, (SAMPLES, REFERENCE))
  for name, layer in (('fid', 'pool'), ('sfid', 'spatial')):
    expected = _frechet(ours[layer], theirs[layer])
    assert expected > 0.01
    assert found[name] == pytest.approx(expected, rel=1e-6, abs=1e-6)
  between = metrics.distances(theirs['pool'], ours['pool'])
  radius = lambda x: np.sort(metrics.distances(x, x), axis=1)[:, 3]
  precision = (between <= radius(theirs['pool'])[:, None]).any(0).mean()
  recall = (between <= radius(ours['pool'])[None]).any(1).mean()
  assert found['precision'] == precision and found['recall'] == recall
  assert 0.1 < precision < 1 and 0.1 < recall < 1
  order = np.random.RandomState(2020).permutation(150)
  scores = []
  for part in np.split(ours['logits_unbiased'][order], 10):
    p = [np.exp(row) / np.exp(row).sum() for row in np.float64(part)]
    marginal = np.mean(p, axis=0)
    divergence = [(row * np.log(row / marginal)).sum() for row in p]
    scores.append(np.exp(np.mean(divergence)))
  assert found['is'] == pytest.approx(np.mean(scores), rel=1e-9)


def test_equal_to_torch_fidelity():
  samples, reference, logits = features()
  ours, theirs = (
    metrics.ImageFeatures(
      count=len(x), pool=metrics.FeatureStats.of(x), points=x
    )
    for x in (samples, reference)
  )
  wanted = ('fid', 'precision', 'recall')
  found = metrics.compare(ours, theirs, metrics=wanted)
  assert found == {
    'fid': pytest.approx(golden()['frechet_inception_distance'], abs=1e-6),
    'precision': pytest.approx(golden()['precision'], abs=1e-6),
    'recall': pytest.approx(golden()['recall'], abs=1e-6),
  }
  score = metrics.inception_score(logits)
  for value, name in ((score.mean, 'mean'), (score.deviation, 'std')):
    expected = golden()[f'inception_score_{name}']
    assert value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize('cuts', [[1], [3, 70, 71], list(range(5, 150, 5))])
def test_streaming_equals_all_at_once(cuts, monkeypatch):
  whole = _measure([SAMPLES])
  monkeypatch.setattr(features_lib, '_ROWS', 20)
  assert _measure(np.split(SAMPLES, cuts)) == pytest.approx(whole, rel=1e-9)


def test_a_set_against_itself():
  found = _measure([SAMPLES], reference=SAMPLES)
  assert found['fid'] < 1e-6 and found['sfid'] < 1e-6
  assert found['precision'] == found['recall'] == 1


def test_only_what_is_asked_for_is_kept():
  found = metrics.collect(Extractor(), [SAMPLES], metrics=('fid', 'is'))
  assert found.points is None and found.spatial is None
  assert found.count == found.pool.count == 150
  assert found.logits_unbiased.shape == (150, 12)
  assert list(metrics.compare(found, metrics=('is',))) == ['is']
  other = metrics.collect(Extractor(), [SAMPLES[::-1]], metrics=('fid',))
  again = metrics.collect(Extractor(), [SAMPLES[:9], SAMPLES[9:]])
  assert found.sha256 == again.sha256 != other.sha256


def test_class_order_ruins_the_score_unless_shuffled():
  """Ten classes, each predicted with certainty."""
  logits = 50 * np.repeat(np.eye(10), 20, axis=0)
  ruined = metrics.inception_score(logits, shuffle_seed=None)
  assert ruined.mean == pytest.approx(1)
  assert 7 < metrics.inception_score(logits).mean < 10
  assert metrics.inception_score(logits, splits=1).mean == pytest.approx(10)


def test_errors():
  some = metrics.collect(Extractor(), [SAMPLES], metrics=('is',))
  with pytest.raises(UserError, match='fid needs of the samples mean and'):
    metrics.compare(some, some, metrics=('fid',))
  full = metrics.collect(Extractor(), [SAMPLES])
  with pytest.raises(UserError, match='sfid needs of the reference'):
    metrics.compare(full, some, metrics=('sfid',))
  with pytest.raises(UserError, match='precision needs of the reference every'):
    metrics.compare(full, metrics=('is', 'precision'))
  with pytest.raises(UserError, match=r"no metric 'kid' here\..*'fid'"):
    metrics.compare(full, full, metrics=('kid',))
  with pytest.raises(UserError, match='no images to measure'):
    metrics.collect(Extractor(), [])
  with pytest.raises(UserError, match='images of one size'):
    metrics.collect(Extractor(), [SAMPLES, np.zeros((1, 5, 4, 3), np.uint8)])
  with pytest.raises(UserError, match='10 parts of 9 samples'):
    metrics.inception_score(np.zeros((9, 3)))
