"""Are a generator's samples right, varied, and its own?"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from tokpress_jax import generators, metrics, types
from tokpress_jax.report.images import ImageSet


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleResult:
  """What a generator's samples show.

  Attributes:
    class_agreement: fraction that the judge gives the class asked for.
    diversity: mean distance within a class, samples over test images.
    precision: fraction of samples in the test images' manifold (judge's
      features, 3 neighbours).
    recall: fraction of test images in the samples' manifold.
    frechet: Fréchet distance to the test images in the judge's features.
    frechet_floor: the same between training and test images.
    nearest_train: mean distance of a sample to the nearest training image, in
      pixels of [0, 1].
    nearest_train_test: the same of the test images.
    samples: [N, H, W, C] in [-1, 1].
    labels: int [N].
    stages: what a few samples look like after each part of their tokens.
    stage_tokens: the number of tokens at each stage.
  """

  class_agreement: float
  diversity: float
  precision: float
  recall: float
  frechet: float
  frechet_floor: float
  nearest_train: float
  nearest_train_test: float
  samples: np.ndarray
  labels: np.ndarray
  stages: tuple[np.ndarray, ...]
  stage_tokens: tuple[int, ...]


def measure_generator(
  generator: types.Loaded,
  images: ImageSet,
  judge: metrics.Judge,
  *,
  samples: int = 500,
  sampler: generators.Sampler | None = None,
  seed: int = 0,
  batch_size: int = 100,
) -> SampleResult:
  """Samples every class equally often and measures the samples.

  Args:
    generator: with its tokenizer.
    images: the data that it was trained on, and held-out images.
    judge: an independent classifier of the same classes.
    samples: how many; rounded up to full batches.
    sampler: how codes are drawn.
    seed: of the samples.
    batch_size: samples at once.

  Returns:
    The result.
  """
  from tokpress_jax.train.tasks.tokenizer import shown_lengths

  classes = images.info.num_classes
  count = -(-samples // batch_size) * batch_size
  labels = np.arange(count, dtype=np.int32) % classes
  show = shown_lengths(generator.module.config.boundaries)
  key = jax.random.key(seed)
  drawn: list[np.ndarray] = []
  stages: tuple[np.ndarray, ...] = ()
  for start in range(0, count, batch_size):
    out = generators.sample(
      generator,
      labels[start : start + batch_size],
      rng=jax.random.fold_in(key, start),
      sampler=sampler,
      show=show,
    )
    drawn.append(np.asarray(out.images))
    if not start:
      stages = tuple(np.asarray(p[:classes]) for p in out.previews)
  found = np.concatenate(drawn)
  unit = lambda x: (x + 1) / 2
  features = lambda x: np.asarray(judge.features(x))
  test, own = features(images.test), features(found)
  stats = metrics.FeatureStats.of
  manifold = metrics.precision_recall(test, own)
  nearest = lambda x: float(
    np.mean(metrics.nearest_distance(unit(x), unit(images.train)))
  )
  return SampleResult(
    class_agreement=metrics.class_agreement(judge, found, labels),
    diversity=metrics.sample_diversity(
      found, labels, images.test, images.test_labels
    ),
    precision=manifold.precision,
    recall=manifold.recall,
    frechet=metrics.frechet_distance(stats(own), stats(test)),
    frechet_floor=metrics.frechet_distance(
      stats(features(images.train)), stats(test)
    ),
    nearest_train=nearest(found),
    nearest_train_test=nearest(images.test),
    samples=found,
    labels=labels,
    stages=stages,
    stage_tokens=show,
  )
