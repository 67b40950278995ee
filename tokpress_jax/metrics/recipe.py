"""Numbers with all that one must know to compute them again.

A number and its recipe travel together as JSON. No date and no path: the same
files and the same command give the same text.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

import jax

from tokpress_jax.metrics import features as features_lib
from tokpress_jax.metrics import generation
from tokpress_jax.metrics.frechet import Moments

_FEATURES = {
  'fid': 'pool_3, 2048',
  'sfid': 'mixed_6/conv, first 7 channels of 17 x 17 places, 2023',
  'is': 'logits without bias, 1008',
  'precision': 'pool_3, 2048',
  'recall': 'pool_3, 2048',
}
_OWN: dict[str, dict[str, Any]] = {
  'fid': {'arithmetic': 'float64 sums, N - 1'},
  'sfid': {'arithmetic': 'float64 sums, N - 1'},
  'precision': {'neighbours': generation.NEIGHBOURS},
  'recall': {'neighbours': generation.NEIGHBOURS},
}


def network_recipe(extractor: features_lib.FeatureExtractor) -> dict[str, Any]:
  """Says which network, and what happened to pixels before it."""
  weights = extractor.weights
  return {
    'network': {
      'name': 'Inception 2015-12-05 (FID)',
      'file': weights.file,
      'sha256': weights.sha256,
      'fingerprint': weights.fingerprint,
    },
    'resize': extractor.resize,
    'precision': 'float32, highest',
    **environment(),
  }


def environment() -> dict[str, Any]:
  """Versions and platform."""
  names = ('tokpress-jax', 'jax', 'jaxlib', 'flax', 'numpy')
  return {
    'versions': {name: importlib.metadata.version(name) for name in names},
    'platform': jax.default_backend(),
  }


def numbers(
  values: Mapping[str, float],
  *,
  extractor: features_lib.FeatureExtractor,
  samples: features_lib.ImageFeatures,
  reference: features_lib.ImageFeatures | None = None,
  samples_from: Mapping[str, Any],
  reference_from: Mapping[str, Any] | None = None,
  shuffle_seed: int | None = generation.SHUFFLE_SEED,
  prefix: str = '',
) -> dict[str, dict[str, Any]]:
  """Puts a recipe beside each number of `compare`.

  Args:
    values: what `compare` gave.
    extractor: what computed the features.
    samples: what `compare` was given.
    reference: likewise.
    samples_from: where the samples are from: file and hash, or model, seed and
      sampler.
    reference_from: where the reference is from.
    shuffle_seed: what `compare` was given.
    prefix: of the Fréchet distances' names, 'r' for reconstructions.

  Returns:
    Name to `{'value': ..., 'recipe': {...}}`.
  """
  shared = network_recipe(extractor)
  found = {}
  for name, value in values.items():
    recipe: dict[str, Any] = {'features': _FEATURES[name], **shared}
    recipe |= _OWN.get(name, {})
    need = generation.OF_SAMPLES[name]
    recipe['samples'] = _side(samples, need, samples_from)
    if name in generation.OF_REFERENCE and reference is not None:
      recipe['reference'] = _side(reference, need, reference_from or {})
    if name == 'is':
      recipe['splits'] = generation.SPLITS
      recipe['shuffle_seed'] = shuffle_seed
    shown = prefix + name if name in ('fid', 'sfid') else name
    found[shown] = {'value': value, 'recipe': recipe}
  return found


def _side(
  features: features_lib.ImageFeatures, need: str, source: Mapping[str, Any]
) -> dict[str, Any]:
  moments = getattr(features, need)
  if isinstance(moments, Moments):
    return {'count': moments.count, 'given': 'statistics', **source}
  return {
    'count': features.count,
    'given': 'images',
    'pixels_sha256': features.sha256,
    **source,
  }
