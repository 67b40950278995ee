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


@dataclasses.dataclass(frozen=True)
class Moments:
  """Mean and covariance that somebody else computed.

  Attributes:
    mean: float64 [D].
    covariance: float64 [D, D].
    count: of how many samples; None if that is not known.
  """

  mean: np.ndarray
  covariance: np.ndarray
  count: int | None = None

  def __post_init__(self):
    size = np.size(self.mean)
    if np.shape(self.mean) != (size,) or (
      np.shape(self.covariance) != (size, size)
    ):
      raise ValueError(
        f'Expected a mean [D] and a covariance [D, D]; got '
        f'{np.shape(self.mean)} and {np.shape(self.covariance)}.'
      )


def frechet_distance(
  a: FeatureStats | Moments, b: FeatureStats | Moments
) -> float:
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
  mean, other = a.mean, b.mean
  if mean.shape != other.shape:
    raise ValueError(
      f'The sets have {mean.size} and {other.size} features; both must '
      'come from the same network.'
    )
  c1, c2 = a.covariance, b.covariance
  values, vectors = np.linalg.eigh(c1)
  root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
  product = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ c2 @ root), 0)).sum()
  traces = np.trace(c1) + np.trace(c2)
  distance = np.sum((mean - other) ** 2) + traces - 2 * product
  return float(max(distance, 0.0))
