"""The Fréchet distance between two sets of features.

Heusel et al., "GANs Trained by a Two Time-Scale Update Rule"
(arXiv:1706.08500), eq. 6: |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^1/2). Only
with the published Inception network is it the FID; always say whose features
and how many samples.

NumPy in float64 on the host: float32 covariances are a known reason why
published numbers differ.

Dimensions: N samples, D features.
"""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FeatureStats:
  """Sums over samples; add them over batches and hosts with `+`.

  Attributes:
    count: N.
    total: float64 [D].
    outer: float64 [D, D], the sum of x x^T about `shift`.
    shift: float64 [D], subtracted first so that large means lose no digits;
      the first batch's mean.
  """

  count: int
  total: np.ndarray
  outer: np.ndarray
  shift: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray) -> FeatureStats:
    """The sums of one batch [N, D]."""
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or not len(x):
      raise ValueError(f'Expected features [N, D] with N >= 1; got {x.shape}.')
    shift = x.mean(0)
    x = x - shift
    return cls(len(x), x.sum(0), x.T @ x, shift)

  def __add__(self, other: FeatureStats) -> FeatureStats:
    # Moves the other's sums to this one's origin.
    d = other.shift - self.shift
    cross = np.outer(other.total, d)
    outer = other.outer + cross + cross.T + other.count * np.outer(d, d)
    return FeatureStats(
      self.count + other.count,
      self.total + other.total + other.count * d,
      self.outer + outer,
      self.shift,
    )

  @property
  def mean(self) -> np.ndarray:
    """float64 [D]."""
    return self.shift + self.total / self.count

  @property
  def covariance(self) -> np.ndarray:
    """float64 [D, D], with N - 1 in the denominator."""
    if self.count < 2:
      raise ValueError('A covariance needs at least 2 samples; got 1.')
    centre = np.outer(self.total, self.total) / self.count
    return (self.outer - centre) / (self.count - 1)


def frechet_distance(a: FeatureStats, b: FeatureStats) -> float:
  """The squared Fréchet distance of the two Gaussians.

  The trace of (C1 C2)^1/2 is that of (S C2 S)^1/2 with S = C1^1/2, which is
  symmetric: two `eigh` instead of a general matrix root, which is complex
  and unstable for singular covariances.

  Args:
    a: one set.
    b: the other.

  Returns:
    A number >= 0.
  """
  if a.shift.shape != b.shift.shape:
    raise ValueError(
      f'The sets have {a.shift.size} and {b.shift.size} features; both must '
      'come from the same network.'
    )
  values, vectors = np.linalg.eigh(a.covariance)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  inner = root @ b.covariance @ root
  product = np.sqrt(np.maximum(np.linalg.eigvalsh(inner), 0)).sum()
  traces = np.trace(a.covariance) + np.trace(b.covariance)
  distance = np.sum((a.mean - b.mean) ** 2) + traces - 2 * product
  return float(max(distance, 0.0))
