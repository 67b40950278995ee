"""FID, sFID, Inception score, precision and recall of sets of images.

A set of images passes through the network once (`features.py`), and the numbers
are those of what was kept:

  weights = load_inception('inception.safetensors')
  extractor = FeatureExtractor(weights)
  samples, real = (collect(extractor, batches) for batches in (ours, theirs))
  compare(samples, real)  # {'fid': ..., 'sfid': ..., 'is': ..., ...}

Papers: FID, Heusel et al. (arXiv:1706.08500); sFID, Nash et al., "Generating
Images with Sparse Representations" (arXiv:2103.03841); Inception score,
Salimans et al. (arXiv:1606.03498), eq. 1; precision and recall, Kynkäänniemi et
al. (arXiv:1904.06991), here in the Inception features, as the usual ImageNet
evaluator (that of guided-diffusion) does, not in VGG16's.

Dimension letters: N images, n of a batch, H rows, W columns, C channels, K
classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tokpress_jax.errors import UserError, did_you_mean
from tokpress_jax.metrics.features import (
  Collector,
  FeatureExtractor,
  ImageFeatures,
)
from tokpress_jax.metrics.frechet import frechet_distance
from tokpress_jax.metrics.neighbours import precision_recall

# The fields of `ImageFeatures` that each number needs of the samples, and of
# the reference.
OF_SAMPLES = {
  'fid': 'pool',
  'sfid': 'spatial',
  'is': 'logits_unbiased',
  'precision': 'points',
  'recall': 'points',
}
OF_REFERENCE = {k: v for k, v in OF_SAMPLES.items() if k != 'is'}
METRICS = tuple(OF_SAMPLES)

NEIGHBOURS = 3
SPLITS = 10
# torch-fidelity's seed of the order in which samples are split.
SHUFFLE_SEED = 2020


def collect(
  extractor: FeatureExtractor,
  batches: Iterable[np.ndarray],
  *,
  metrics: Sequence[str] = METRICS,
) -> ImageFeatures:
  """Passes a set of images through the network.

  Args:
    extractor: the network.
    batches: uint8 [n, H, W, C] each, any n.
    metrics: the numbers that are wanted, which decide what is kept.

  Returns:
    What `compare` takes, as samples or as reference.
  """
  check_metrics(metrics)
  collector = Collector(extractor, {OF_SAMPLES[name] for name in metrics})
  for images in batches:
    collector.add(images)
  return collector.result()


def check_metrics(metrics: Sequence[str], known: Sequence[str] = METRICS):
  """Raises UserError that names every unknown metric."""
  for name in metrics:
    if name not in known:
      raise UserError(
        f'There is no metric {name!r} here. {did_you_mean(name, known)}'
      )


@dataclasses.dataclass(frozen=True)
class InceptionScore:
  """Attributes: mean and standard deviation over the parts."""

  mean: float
  deviation: float


def inception_score(
  logits: np.ndarray,
  *,
  splits: int = SPLITS,
  shuffle_seed: int | None = SHUFFLE_SEED,
) -> InceptionScore:
  """Exp of the mean divergence of p(y | x) from p(y), over parts of the set.

  Samples that lie in the order of their classes must be shuffled: a tenth of
  the classes cannot score above a tenth of their number.

  Args:
    logits: [N, K], `logits_unbiased`; probabilities are computed in float64.
    splits: parts i N / splits .. (i + 1) N / splits, of which the mean is
      taken. The usual ImageNet evaluator takes parts of 5,000: 10 of 50,000.
    shuffle_seed: of `numpy.random.RandomState(seed).permutation(N)`, the order
      in which the parts are cut (torch-fidelity's default is 2020); None keeps
      the order given, as the usual ImageNet evaluator does.

  Returns:
    Mean and deviation over the parts.

  Raises:
    UserError: if there are fewer samples than parts.
  """
  count = len(logits)
  if not 1 <= splits <= count:
    raise UserError(
      f'{splits} parts of {count} samples: give at least one sample a part.'
    )
  order = np.arange(count)
  if shuffle_seed is not None:
    order = np.random.RandomState(shuffle_seed).permutation(count)
  scores = []
  for i in range(splits):
    rows = order[i * count // splits : (i + 1) * count // splits]
    part = np.asarray(logits[rows], np.float64)
    part -= part.max(axis=1, keepdims=True)
    log_p = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    # A class that underflows everywhere adds nothing: its p is 0.
    mean = np.log(np.maximum(p.mean(axis=0), np.finfo(np.float64).tiny))
    scores.append(np.exp((p * (log_p - mean[None])).sum(axis=1).mean()))
  return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def compare(
  samples: ImageFeatures,
  reference: ImageFeatures | None = None,
  *,
  metrics: Sequence[str] = METRICS,
  shuffle_seed: int | None = SHUFFLE_SEED,
) -> dict[str, float]:
  """Computes the numbers.

  Args:
    samples: of the images that are judged.
    reference: of those they are judged by; the Inception score needs none.
    metrics: of `METRICS`.
    shuffle_seed: see `inception_score`.

  Returns:
    Name to value, in the order of `metrics`.

  Raises:
    UserError: if a set lacks what a number needs.
  """
  check_metrics(metrics)
  found: dict[str, float] = {}
  for name in metrics:
    ours = _need(samples, OF_SAMPLES[name], f'{name} needs of the samples')
    if name == 'is':
      found[name] = inception_score(ours, shuffle_seed=shuffle_seed).mean
      continue
    need = OF_REFERENCE[name]
    theirs = _need(reference, need, f'{name} needs of the reference')
    if name in ('fid', 'sfid'):
      found[name] = frechet_distance(ours, theirs)
    elif name not in found:
      both = precision_recall(theirs, ours, k=NEIGHBOURS)
      found |= {'precision': both.precision, 'recall': both.recall}
  return {name: found[name] for name in metrics}


def _need(features: ImageFeatures | None, name: str, sentence: str) -> Any:
  value = getattr(features, name, None)
  if value is None:
    raise UserError(
      f'{sentence} {_CALLED[name]}, which are not there. Give images, or leave '
      'it out.'
    )
  return value


_CALLED = {
  'pool': 'mean and covariance of the 2048 features',
  'spatial': 'mean and covariance of the spatial features (mu_s, sigma_s)',
  'points': "every image's features (no statistics)",
  'logits_unbiased': "every image's logits",
}
