"""Distances between sets: memorising, coverage and diversity.

NumPy on the host; the sets are small (up to some ten thousand).

Dimensions: N and M samples, D features.
"""

import dataclasses

import numpy as np


def _flat(x: np.ndarray) -> np.ndarray:
  x = np.asarray(x, np.float64)
  return x.reshape(len(x), -1)


def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Euclidean distances.

  Args:
    a: [N, ...]; images count as vectors of their pixels.
    b: [M, ...].

  Returns:
    float64 [N, M].
  """
  a, b = _flat(a), _flat(b)
  # Exact zeros for equal rows matter (memorising): no |a|^2 - 2ab + |b|^2.
  step = max(1, 2**24 // max(1, b.size))
  parts = [
    np.sqrt(np.square(a[i : i + step, None] - b[None]).sum(-1))
    for i in range(0, len(a), step)
  ]
  return np.concatenate(parts)


def nearest_distance(samples: np.ndarray, train: np.ndarray) -> np.ndarray:
  """How far each sample is from its nearest training image.

  Compare with the same number for test images: much smaller values mean
  that the training set was memorised.

  Args:
    samples: [N, ...].
    train: [M, ...].

  Returns:
    float64 [N], Euclidean.
  """
  return distances(samples, train).min(axis=1)


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
  """Attributes: precision and recall, fractions in [0, 1]."""

  precision: float
  recall: float


def precision_recall(
  real: np.ndarray, fake: np.ndarray, *, k: int = 3
) -> PrecisionRecall:
  """Fractions of each set that lie in the other's manifold.

  Kynkäänniemi et al., "Improved Precision and Recall Metric for Assessing
  Generative Models" (arXiv:1904.06991), eq. 1 and 2: a set's manifold is the
  union of balls about its points that reach to the k-th nearest neighbour
  in the same set. Sets of very different sizes are not comparable.

  Args:
    real: [N, ...], features or images.
    fake: [M, ...].
    k: neighbours; the paper takes 3.

  Returns:
    precision: of `fake` in the manifold of `real`; recall: the other way.
  """
  if min(len(real), len(fake)) <= k:
    raise ValueError(
      f'k={k} neighbours need more than {k} points in each set; got '
      f'{len(real)} and {len(fake)}.'
    )
  between = distances(real, fake)
  return PrecisionRecall(
    precision=float((between <= _radius(real, k)[:, None]).any(0).mean()),
    recall=float((between <= _radius(fake, k)[None]).any(1).mean()),
  )


def _radius(x: np.ndarray, k: int) -> np.ndarray:
  # The smallest distance is that to the point itself.
  return np.partition(distances(x, x), k, axis=1)[:, k]


def class_spread(images: np.ndarray, labels: np.ndarray) -> float:
  """The mean distance of two images of one class.

  Args:
    images: [N, ...].
    labels: int [N].

  Returns:
    The mean over pairs, then over the classes that have a pair.
  """
  spreads = []
  for label in np.unique(labels):
    chosen = np.asarray(images)[np.asarray(labels) == label]
    n = len(chosen)
    if n > 1:
      spreads.append(distances(chosen, chosen).sum() / (n * (n - 1)))
  if not spreads:
    raise ValueError('No class has two images; give more samples per class.')
  return float(np.mean(spreads))


def sample_diversity(
  samples: np.ndarray,
  sample_labels: np.ndarray,
  images: np.ndarray,
  labels: np.ndarray,
) -> float:
  """The spread within classes of samples over that of real images.

  Args:
    samples: [N, ...].
    sample_labels: int [N].
    images: [M, ...], held-out images, in the same range of values.
    labels: int [M].

  Returns:
    1 for samples as varied as the images; near 0 for mode collapse.
  """
  return class_spread(samples, sample_labels) / class_spread(images, labels)
