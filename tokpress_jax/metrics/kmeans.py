"""K-means patch coding: the baseline that any learned tokenizer must beat.

The oldest image tokenizer: cut into patches, replace each by the nearest of
V fixed ones, fitted to the training images by Lloyd's algorithm.

Dimensions: N patches, D values of a patch, V codes, B images, H W C.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from tokpress_jax.metrics.images import psnr

_MAX_PATCHES = 20_000  # To fit; more change the third digit.


def fit_kmeans(
  x: np.ndarray, *, size: int, seed: int = 0, steps: int = 20
) -> np.ndarray:
  """Lloyd's algorithm from k-means++ centres.

  Arthur and Vassilvitskii (2007): each first centre is drawn with probability
  proportional to the squared distance from the ones before. An empty cell
  keeps its centre.

  Args:
    x: float32 [N, D].
    size: V.
    seed: of the first centres.
    steps: of Lloyd's algorithm.

  Returns:
    float32 [V, D].
  """
  rng = np.random.default_rng(seed)
  centres = np.empty((size, x.shape[1]), np.float32)
  square = np.full(len(x), np.inf)
  index = rng.integers(len(x))
  for v in range(size):
    centres[v] = x[index]
    square = np.minimum(square, np.square(x - x[index]).sum(-1))
    reach = np.cumsum(square + 1e-12)
    index = np.searchsorted(reach, rng.random() * reach[-1])
  for _ in range(steps):
    codes = nearest_centre(x, centres)
    count = np.bincount(codes, minlength=size)
    total = np.stack(
      [np.bincount(codes, column, minlength=size) for column in x.T], axis=1
    )
    used = count > 0
    centres[used] = total[used] / count[used, None]
  return centres


def nearest_centre(x: np.ndarray, centres: np.ndarray) -> np.ndarray:
  """The index [N] of each vector's nearest centre; x is [N, D]."""
  half = 0.5 * np.square(centres).sum(-1)
  step = max(1, 2**22 // len(centres))
  parts = [
    np.argmax(x[i : i + step] @ centres.T - half, axis=1)
    for i in range(0, len(x), step)
  ]
  return np.concatenate(parts)


@dataclasses.dataclass(frozen=True)
class PatchCoding:
  """A patch code and its quality.

  Attributes:
    patch: rows and columns of a patch.
    codebook_size: V.
    bits: per image.
    psnr: the mean over test images, in dB.
  """

  patch: tuple[int, int]
  codebook_size: int
  bits: int
  psnr: float


def patch_coding(
  train: np.ndarray,
  test: np.ndarray,
  *,
  bits: int,
  peak: float = 1.0,
  max_codes: int = 1024,
  seed: int = 0,
) -> PatchCoding:
  """The best k-means patch code within a budget.

  Every patch size that divides the image is given the largest codebook of a
  power of two that the budget pays for, up to `max_codes` and to a fifth of
  the training patches. Those that spend nine tenths of what can be spent are
  tried.

  Args:
    train: [M, H, W, C], the images that the codebooks are fitted to.
    test: [B, H, W, C], the images that are coded.
    bits: the budget per image.
    peak: the range of the values.
    max_codes: the largest codebook.
    seed: of the fit.

  Returns:
    The code with the highest PSNR on the training images (so that the test
    images choose nothing), and its PSNR on the test images.

  Raises:
    ValueError: if not even one bit per image is allowed.
  """
  train, test = np.asarray(train, np.float32), np.asarray(test, np.float32)
  height, width = train.shape[1:3]
  candidates = {}
  for h in (h for h in range(1, height + 1) if height % h == 0):
    for w in (w for w in range(1, width + 1) if width % w == 0):
      patches = (height // h) * (width // w)
      limit = min(max_codes, max(len(train) * patches // 5, 2))
      each = min(bits // patches, int(np.log2(limit)))
      if each >= 1:
        candidates[h, w] = (each, patches)
  most = max((e * n for e, n in candidates.values()), default=0)
  if not candidates:
    raise ValueError(f'bits={bits} per image pays for no code; give 1 or more.')
  scores = {}
  order = np.random.default_rng(seed).permutation
  for patch, (each, patches) in candidates.items():
    if each * patches < 0.9 * most:
      continue
    x = order(_to_patches(train, patch))[:_MAX_PATCHES]
    codebook = fit_kmeans(x, size=2**each, seed=seed)
    scores[patch] = (_coded_psnr(train, codebook, patch, peak), codebook)
  patch = max(scores, key=lambda patch: scores[patch][0])
  (each, patches), (_, codebook) = candidates[patch], scores[patch]
  return PatchCoding(
    patch=patch,
    codebook_size=2**each,
    bits=each * patches,
    psnr=_coded_psnr(test, codebook, patch, peak),
  )


def _to_patches(images: np.ndarray, patch: tuple[int, int]) -> np.ndarray:
  b, height, width, c = images.shape
  h, w = patch
  x = images.reshape(b, height // h, h, width // w, w, c)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, h * w * c)


def _coded_psnr(images, codebook, patch, peak) -> float:
  x = _to_patches(images, patch)
  chosen = codebook[nearest_centre(x, codebook)]
  # The error needs no way back: patches hold each value once.
  shape = (len(images), 1, 1, -1)
  pair = (jnp.asarray(v.reshape(shape)) for v in (x, chosen))
  return float(jnp.mean(psnr(*pair, peak=peak)))
