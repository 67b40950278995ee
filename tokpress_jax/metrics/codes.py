"""How evenly codes are used, beside k-means on the same vectors.

A codebook that has collapsed uses few codes however many it has. K-means with
as many codes, fitted to just the vectors that are coded, shows how many could
be of use.

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
    kmeans: the same of k-means with min(V, N) codes.
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


def scale_codes(
  residuals: Sequence[np.ndarray],
  codes: Sequence[np.ndarray],
  *,
  size: int,
  limit: int = 20_000,
  seed: int = 0,
) -> tuple[ScaleCodes, ...]:
  """Compares each scale's codes with k-means on what the scale had to code.

  K-means is fitted (k-means++, 20 rounds of Lloyd) to the very vectors whose
  codes are counted, so that it has seen them and the codebook may not have. It
  gets V codes for each scale alone. A scale with fewer than V vectors in all
  gives k-means one code each: then its perplexity is their number.

  Args:
    residuals: of each scale, float32 [B, h, w, D], from
      `MultiScaleVQ.residuals`.
    codes: of each scale, int [B, h w].
    size: V.
    limit: at most so many vectors of a scale are used, the same for both.
    seed: of the choice of vectors and of k-means.

  Returns:
    One entry for each scale.
  """
  found = []
  for x, chosen in zip(residuals, codes, strict=True):
    grid = (int(x.shape[1]), int(x.shape[2]))
    x = np.asarray(x, np.float32).reshape(-1, x.shape[-1])
    chosen = np.asarray(chosen).reshape(-1)
    order = np.random.default_rng(seed).permutation(len(x))[:limit]
    x, chosen = x[order], chosen[order]
    centres = fit_kmeans(x, size=min(size, len(x)), seed=seed)
    cells = nearest_centre(x, centres)
    square = lambda y: float(np.mean(np.sum(np.square(y), axis=-1)))
    found.append(
      ScaleCodes(
        grid=grid,
        vectors=len(x),
        perplexity=perplexity_of(chosen),
        kmeans=perplexity_of(cells),
        energy=square(x - x.mean(0)),
        kmeans_error=square(x - centres[cells]),
      )
    )
  return tuple(found)
