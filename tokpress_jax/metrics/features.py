"""What numbers need of a set of images: features of the Inception network.

Streaming: a set passes through the network once, in batches of one size (the
last is padded), and what the wanted numbers need is kept:

* FID and sFID: sums in float64 (`FeatureStats`), 32 MiB each;
* Inception score: the logits, float32, 4 KiB an image;
* precision and recall: the 2048 features, float32, 8 KiB an image.

Dimension letters: N images, B batch, H rows, W columns, C channels, D features.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tokpress_jax.errors import UserError
from tokpress_jax.metrics import pixels
from tokpress_jax.metrics.frechet import FeatureStats, Moments
from tokpress_jax.metrics.inception import Inception, InceptionWeights

# Rows after which sums are moved on: adding costs D x D, whatever the rows.
_ROWS = 1024


class FeatureExtractor:
  """The network, compiled once for each batch size.

  Attributes:
    weights: what it was made with.
    resize: the name of what happens to pixels before, see `metrics.pixels`.
    batch_size: images at once, a multiple of the number of devices.
  """

  def __init__(
    self,
    weights: InceptionWeights,
    *,
    resize: pixels.Resize = 'tf1',
    batch_size: int = 64,
    devices: Sequence[jax.Device] | None = None,
  ):
    """Places the weights.

    Args:
      weights: from `load_inception`.
      resize: 'tf1', 'clean' or 'torch'.
      batch_size: rounded up to a multiple of the devices.
      devices: which a batch is divided among; by default all of this process if
        they are accelerators, and one if they are CPUs (it uses all cores).

    Raises:
      UserError: for an unknown way to resize or a batch below 1.
    """
    pixels.check_resize(resize)
    if batch_size < 1:
      raise UserError(f'batch_size must be at least 1; got {batch_size}.')
    devices = local_devices() if devices is None else tuple(devices)
    self.weights = weights
    self.resize = resize
    self.batch_size = -(-batch_size // len(devices)) * len(devices)
    mesh = Mesh(np.array(devices), ('data',))
    self._rows = NamedSharding(mesh, PartitionSpec('data'))
    self._variables = jax.device_put(
      weights.variables, NamedSharding(mesh, PartitionSpec())
    )

  def __call__(
    self, images: np.ndarray, names: Sequence[str] = ('pool',)
  ) -> dict[str, np.ndarray]:
    """Computes features of any number of images.

    Args:
      images: uint8 [N, H, W, C], C being 3 or 1.
      names: fields of `InceptionFeatures`.

    Returns:
      Name to float32 [N, D].
    """
    images = check_images(images)
    parts: list[dict[str, np.ndarray]] = []
    for start in range(0, len(images), self.batch_size):
      chunk = images[start : start + self.batch_size]
      out = self.dispatch(chunk, names)
      parts.append({k: np.asarray(v)[: len(chunk)] for k, v in out.items()})
    return {k: np.concatenate([p[k] for p in parts]) for k in names}

  def dispatch(
    self, images: np.ndarray, names: Sequence[str]
  ) -> dict[str, jax.Array]:
    """Starts one batch [n, H, W, C], n <= B; gives [B, D], padding included."""
    lost = self.batch_size - len(images)
    padded = np.pad(images, [(0, lost)] + [(0, 0)] * 3)
    placed = jax.device_put(padded, self._rows)
    found = _network(self._variables, _prepare(placed, self.resize))
    return {name: getattr(found, name) for name in names}


# Two programs, so that the large one does not depend on the images' size.
_prepare = jax.jit(pixels.preprocess, static_argnums=1)
_network = jax.jit(Inception().apply)


def local_devices() -> tuple[jax.Device, ...]:
  """This process's accelerators, or one CPU."""
  devices = jax.local_devices()
  return tuple(devices[:1] if devices[0].platform == 'cpu' else devices)


def check_images(images: Any) -> np.ndarray:
  """Returns uint8 images [N, H, W, C], or raises UserError."""
  images = np.asarray(images)
  if images.dtype != np.uint8:
    raise UserError(
      f'Numbers are of uint8 images in 0..255; got {images.dtype}. '
      'io.images.to_uint8 converts floats in [-1, 1].'
    )
  if images.ndim != 4 or images.shape[-1] not in (1, 3):
    transposed = images.ndim == 4 and images.shape[1] in (1, 3)
    raise UserError(
      f'Expected images [N, H, W, C] of 1 or 3 channels; got {images.shape}.'
      + (' Move the channels to the end.' if transposed else '')
    )
  return images


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageFeatures:
  """What is kept of one set of images; None for what was not asked for.

  Attributes:
    count: N, images that were looked at; 0 if there is a file's word only.
    pool: moments of the 2048 features.
    spatial: moments of the spatial features.
    points: the 2048 features themselves, float32 [N, 2048].
    logits_unbiased: float32 [N, 1008].
    sha256: of the pixels in their order, '' without images.
  """

  count: int = 0
  pool: FeatureStats | Moments | None = None
  spatial: FeatureStats | Moments | None = None
  points: np.ndarray | None = None
  logits_unbiased: np.ndarray | None = None
  sha256: str = ''


class Collector:
  """Takes images as they come and keeps what numbers need of them."""

  def __init__(self, extractor: FeatureExtractor, kept: Iterable[str]):
    """Starts an empty set.

    Args:
      extractor: the network.
      kept: fields of `ImageFeatures`: 'pool', 'spatial', 'points',
        'logits_unbiased'.
    """
    self._extractor = extractor
    self._kept = frozenset(kept)
    names = {'pool' if name == 'points' else name for name in self._kept}
    self._names = tuple(sorted(names))
    self._waiting: list[np.ndarray] = []
    self._pending: tuple[int, dict[str, jax.Array]] | None = None
    self._sums = {name: _Sums() for name in self._kept & {'pool', 'spatial'}}
    self._rows: dict[str, list[np.ndarray]] = {
      name: [] for name in self._kept & {'points', 'logits_unbiased'}
    }
    self._hash = hashlib.sha256()
    self._shape: tuple[int, ...] | None = None
    self.count = 0

  def add(self, images: np.ndarray) -> None:
    """Adds uint8 images [n, H, W, C], all of one size."""
    images = check_images(images)
    self._shape = self._shape or images.shape[1:]
    if images.shape[1:] != self._shape:
      raise UserError(
        f'The images of one set are {self._shape} and {images.shape[1:]}; give '
        'images of one size, each set its own.'
      )
    self._hash.update(np.ascontiguousarray(images).data)
    self.count += len(images)
    self._waiting.append(images)
    if sum(map(len, self._waiting)) >= self._extractor.batch_size:
      self._run(keep_rest=True)

  def result(self) -> ImageFeatures:
    """Runs what waits and returns what was kept.

    Raises:
      UserError: if there was no image.
    """
    if not self.count:
      raise UserError('There are no images to measure.')
    self._run(keep_rest=False)
    self._fetch()
    kept: dict[str, Any] = {k: x.result() for k, x in self._sums.items()}
    kept |= {k: np.concatenate(x) for k, x in self._rows.items()}
    return ImageFeatures(
      count=self.count, sha256=self._hash.hexdigest(), **kept
    )

  def _run(self, *, keep_rest: bool) -> None:
    size = self._extractor.batch_size
    images = np.concatenate(self._waiting)
    stop = len(images) // size * size if keep_rest else len(images)
    for start in range(0, stop, size):
      chunk = images[start : min(start + size, stop)]
      out = self._extractor.dispatch(chunk, self._names)
      # The batch before is fetched while this one is computed.
      self._fetch()
      self._pending = len(chunk), out
    self._waiting = [images[stop:]]

  def _fetch(self) -> None:
    if self._pending is None:
      return
    count, out = self._pending
    self._pending = None
    found = {name: np.asarray(x)[:count] for name, x in out.items()}
    for name, sums in self._sums.items():
      sums.add(found[name])
    for name, rows in self._rows.items():
      rows.append(found['pool' if name == 'points' else name])


class _Sums:
  """`FeatureStats` of rows that come a few at a time."""

  def __init__(self):
    self._stats: FeatureStats | None = None
    self._rows: list[np.ndarray] = []

  def add(self, rows: np.ndarray) -> None:
    self._rows.append(rows)
    if sum(map(len, self._rows)) >= _ROWS:
      self._move()

  def result(self) -> FeatureStats | None:
    self._move()
    return self._stats

  def _move(self) -> None:
    if self._rows:
      new = FeatureStats.of(np.concatenate(self._rows))
      self._stats = new if self._stats is None else self._stats + new
      self._rows = []
