"""What samples are compared with: images, or statistics in a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tokpress_jax import data as data_lib
from tokpress_jax import metrics
from tokpress_jax.cli import measure
from tokpress_jax.errors import UserError
from tokpress_jax.io import image_sets
from tokpress_jax.metrics import features as features_lib
from tokpress_jax.metrics import generation, inception, recipe


def read_reference(
  given: image_sets.ImageSet | data_lib.DataConfig,
  *,
  extractor: features_lib.FeatureExtractor,
  wanted: Sequence[str],
  batch_size: int,
) -> tuple[features_lib.ImageFeatures, dict[str, Any]]:
  """Reads what samples are compared with.

  Args:
    given: an opened file or folder, or a data set, whose `eval_split` counts.
    extractor: the network.
    wanted: of `metrics.METRICS`.
    batch_size: images read at once.

  Returns:
    Features, and where they are from.

  Raises:
    UserError: if statistics are of another network, or if they do and images
      would be needed.
  """
  of = generation.OF_REFERENCE
  needed = {of[name] for name in wanted if name in of}
  if isinstance(given, data_lib.DataConfig):
    collector = features_lib.Collector(extractor, needed)
    for images in measure.progress(_valid(given, batch_size), 'reference'):
      collector.add(images)
    return collector.result(), measure.describe_data(given)
  stored = _stored(given, extractor)
  rest = needed - set(stored)
  features = features_lib.ImageFeatures()
  if rest and given.shape is None:
    lost = [name for name in wanted if of.get(name) in rest]
    raise UserError(
      f'{given.path} holds {", ".join(given.statistics)} and no images, which '
      f'{", ".join(lost)} would need. Leave them out of --metrics, or give '
      'images.'
    )
  if rest:
    collector = features_lib.Collector(extractor, rest)
    for images in measure.progress(given.batches(batch_size), 'reference'):
      collector.add(images)
    features = collector.result()
  moments: dict[str, Any] = {k: v for k, v in stored.items() if k in needed}
  return dataclasses.replace(features, **moments), measure.describe_file(given)


def _stored(
  given: image_sets.ImageSet, extractor: features_lib.FeatureExtractor
) -> dict[str, metrics.Moments]:
  """The moments that a file holds."""
  ours = recipe.network_recipe(extractor)
  theirs = given.recipe or {}
  for name, mine, other in (
    ('resize', ours['resize'], theirs.get('resize')),
    (
      'network',
      ours['network']['fingerprint'],
      theirs.get('network', {}).get('fingerprint'),
    ),
  ):
    if other is not None and other != mine:
      raise UserError(
        f'The statistics in {given.path} were made with {name} {other}, this '
        f'is {mine}: they cannot be compared. Make them again, or give the '
        'same.'
      )
  counts = theirs.get('samples', {}).get('count')
  found = {}
  for name, mean, covariance, size in (
    ('pool', 'mu', 'sigma', inception.POOL_FEATURES),
    ('spatial', 'mu_s', 'sigma_s', inception.SPATIAL_FEATURES),
  ):
    if mean not in given.statistics:
      continue
    mu, sigma = given.statistics[mean], given.statistics[covariance]
    if mu.size != size:
      raise UserError(
        f'{mean} of {given.path} has {mu.size} numbers; this network has '
        f'{size}.'
      )
    found[name] = metrics.Moments(
      mu.astype(np.float64), sigma.astype(np.float64), count=counts
    )
  return found


def save_statistics(
  path: str,
  features: features_lib.ImageFeatures,
  source: Mapping[str, Any],
  extractor: features_lib.FeatureExtractor,
) -> None:
  """Writes the moments of a set with their recipe; see `io.image_sets`."""
  arrays = {}
  for moments, end in ((features.pool, ''), (features.spatial, '_s')):
    if isinstance(moments, metrics.Moments):
      raise UserError('The reference is a file of statistics already.')
    if moments is not None:
      arrays[f'mu{end}'] = moments.mean
      arrays[f'sigma{end}'] = moments.covariance
  if 'mu' not in arrays:
    raise UserError('Statistics are those of fid (and sfid): add it.')
  how = {
    **recipe.network_recipe(extractor),
    'samples': {
      'count': features.count,
      'pixels_sha256': features.sha256,
      **source,
    },
  }
  image_sets.save_statistics(path, arrays, how)


def _valid(data: data_lib.DataConfig, batch_size: int) -> Iterator[np.ndarray]:
  for batch in data_lib.eval_batches(data, batch_size=batch_size):
    yield batch['image'][batch['valid']]
