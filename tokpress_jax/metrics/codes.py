"""How evenly codes are used, beside k-means on the same vectors.

A codebook that has collapsed uses few codes however many it has. K-means with
as many codes, fitted to vectors of the same kind, shows how many could be of
use.

Dimensions: N vectors, D features, V codes, S scales.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tokpress_jax.metrics.kmeans import fit_kmeans, nearest_centre


@dataclasses.dataclass(frozen=True)
class ScaleCodes:
  """The codes of one scale.

  Attributes:
    grid: rows and columns.
    vectors: N, how many were looked at.
    perplexity: exponentiated entropy of the codes.
    kmeans: the same of k-means.
    energy: mean squared length of the vectors about their mean.
    kmeans_error: mean squared error of k-means.
  """

  grid: tuple[int, int]
  vectors: int
  perplexity: float
  kmeans: float
  energy: float
  kmeans_error: float

  @property
  def ratio(self) -> float:
    """The perplexity over that of k-means."""
    return self.perplexity / self.kmeans


def perplexity_of(codes: np.ndarray) -> float:
  """The exponentiated entropy of integer codes, in float64."""
  count = np.unique(codes, return_counts=True)[1]
  p = count / count.sum()
  return float(np.exp(-np.sum(p * np.log(p))))


def fit_scales(
  residuals: Sequence[np.ndarray],
  *,
  size: int,
  limit: int = 20_000,
  seed: int = 0,
) -> list[np.ndarray]:
  """Fits k-means (k-means++, 20 rounds of Lloyd) to each scale alone.

  Args:
    residuals: of each scale what it has to code, float32 [B, h, w, D], from
      `MultiScaleVQ.residuals`.
    size: V.
    limit: at most so many vectors of a scale are used.
    seed: of the choice of vectors and of k-means.

  Returns:
    Of each scale float32 [min(V, N), D]: a scale with fewer vectors than codes
    gives each vector its own.
  """
  fitted = []
  for x in residuals:
    x = _some(x, limit, seed)
    fitted.append(fit_kmeans(x, size=min(size, len(x)), seed=seed))
  return fitted


def scale_codes(
  residuals: Sequence[np.ndarray],
  codes: Sequence[np.ndarray],
  centres: Sequence[np.ndarray],
  *,
  limit: int = 20_000,
  seed: int = 0,
) -> tuple[ScaleCodes, ...]:
  """Compares each scale's codes with k-means on what the scale had to code.

  Args:
    residuals: see `fit_scales`.
    codes: of each scale, int [B, h w].
    centres: of `fit_scales`, on these residuals or on those of other images.
    limit: at most so many vectors of a scale are used, the same for both.
    seed: of the choice of vectors.

  Returns:
    One entry for each scale.
  """
  found = []
  for x, chosen, means in zip(residuals, codes, centres, strict=True):
    grid = (int(x.shape[1]), int(x.shape[2]))
    chosen = _some(np.asarray(chosen)[..., None, None], limit, seed)[:, 0]
    x = _some(x, limit, seed)
    cells = nearest_centre(x, means)
    square = lambda y: float(np.mean(np.sum(np.square(y), axis=-1)))
    found.append(
      ScaleCodes(
        grid=grid,
        vectors=len(x),
        perplexity=perplexity_of(chosen),
        kmeans=perplexity_of(cells),
        energy=square(x - x.mean(0)),
        kmeans_error=square(x - means[cells]),
      )
    )
  return tuple(found)


def _some(x: np.ndarray, limit: int, seed: int) -> np.ndarray:
  """At most `limit` of the vectors of [B, h, w, D], the same for every D."""
  x = np.asarray(x)
  x = x.reshape(-1, x.shape[-1])
  return x[np.random.default_rng(seed).permutation(len(x))[:limit]]
