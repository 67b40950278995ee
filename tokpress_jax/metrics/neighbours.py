"""Distances between sets: memorising, coverage and diversity.

NumPy on the host, in float64 and exact, for sets of up to some ten thousand
images; precision and recall on the device, in blocks.

Dimensions: N and M samples, D features.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Distances held at once: 128 MiB in float32.
_DISTANCES = 2**25


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
  in the same set. Sets of very different sizes are not comparable, nor are
  values with other features than the paper's (VGG16): the usual ImageNet
  evaluator takes the FID's 2048, and distances in float16 where they fit.

  On the default device in blocks of rows, of which the distances are held, so
  that 50,000 points a set fit; squared distances are |a|^2 - 2ab + |b|^2 in
  float32 of features from which the mean was taken, right to about 1e-6 of the
  features' square. A point that near to a ball's edge may fall on either side.

  Args:
    real: [N, ...], features or images.
    fake: [M, ...].
    k: neighbours; the paper takes 3.

  Returns:
    precision: of `fake` in the manifold of `real`; recall: the other way.

  Raises:
    ValueError: if a set has not more than k points, or points of another size.
  """
  if min(len(real), len(fake)) <= k:
    raise ValueError(
      f'k={k} neighbours need more than {k} points in each set; got '
      f'{len(real)} and {len(fake)}.'
    )
  real, fake = (np.reshape(x, (len(x), -1)) for x in (real, fake))
  if real.shape[1] != fake.shape[1]:
    raise ValueError(
      f'The points have {real.shape[1]} and {fake.shape[1]} features; both '
      'sets must come from the same network.'
    )
  centre = np.mean(real, axis=0, dtype=np.float64)
  real, fake = ((x - centre).astype(np.float32) for x in (real, fake))
  inside = np.zeros(len(fake), bool)
  recalled = []
  columns, edge = jnp.asarray(fake), jnp.asarray(_radius(fake, k))
  for rows, radius in _blocks(len(fake), real, _radius(real, k)):
    found, covered = _covered(rows, radius, columns, edge)
    inside |= np.asarray(found)
    recalled.append(np.asarray(covered))
  recall = np.concatenate(recalled)[: len(real)].mean()
  return PrecisionRecall(precision=float(inside.mean()), recall=float(recall))


def _blocks(
  columns: int, *arrays: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
  """Cuts arrays [N, ...] into equal blocks; the last is filled up with -1."""
  size = min(len(arrays[0]), max(1, _DISTANCES // columns))
  for start in range(0, len(arrays[0]), size):
    parts = [x[start : start + size] for x in arrays]
    lost = size - len(parts[0])
    yield tuple(
      np.pad(x, [(0, lost)] + [(0, 0)] * (x.ndim - 1), constant_values=-1)
      for x in parts
    )


def _radius(x: np.ndarray, k: int) -> np.ndarray:
  """The squared distance of each point to its k-th neighbour, float32 [N]."""
  columns = jnp.asarray(x)
  parts = [_kth(rows, columns, k=k) for (rows,) in _blocks(len(x), x)]
  return np.concatenate([np.asarray(p) for p in parts])[: len(x)]


def _squared(a: jax.Array, b: jax.Array) -> jax.Array:
  product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  norms = jnp.sum(a * a, axis=1)[:, None] + jnp.sum(b * b, axis=1)[None]
  return jnp.maximum(norms - 2 * product, 0)


@functools.partial(jax.jit, static_argnames='k')
def _kth(rows: jax.Array, columns: jax.Array, *, k: int) -> jax.Array:
  """The (k + 1)-th smallest of each row: the first is the point itself."""
  squared = _squared(rows, columns)

  # Passes, because a CPU's top_k takes 20 times as long.
  def step(_, carry):
    bound, seen = carry
    above = jnp.where(squared > bound[:, None], squared, jnp.inf)
    least = jnp.min(above, axis=1)
    count = jnp.sum(squared <= least[:, None], axis=1, dtype=jnp.int32)
    more = seen <= k
    return jnp.where(more, least, bound), jnp.where(more, count, seen)

  start = jnp.full(len(rows), -jnp.inf), jnp.zeros(len(rows), jnp.int32)
  return jax.lax.fori_loop(0, k + 1, step, start)[0]


@jax.jit
def _covered(
  real: jax.Array,
  real_radius: jax.Array,
  fake: jax.Array,
  fake_radius: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """Which of `fake` lie in a ball of these of `real`, and the other way."""
  squared = _squared(real, fake)
  found = jnp.any(squared <= real_radius[:, None], axis=0)
  return found, jnp.any(squared <= fake_radius[None], axis=1)


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
