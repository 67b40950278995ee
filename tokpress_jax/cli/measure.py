"""What `tokpress evaluate --metrics` does: draw, reconstruct, compare.

Dimension letters: N images, B batch, H rows, W columns, C channels.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tokpress_jax import data as data_lib
from tokpress_jax import generators, inference, metrics, types
from tokpress_jax.io import image_sets, safetensors
from tokpress_jax.io import images as images_lib
from tokpress_jax.metrics import features as features_lib
from tokpress_jax.metrics import generation, recipe
from tokpress_jax.tokenizers import legal_length

Numbers = dict[str, dict[str, Any]]

PAIRED = ('psnr', 'ssim')
RECONSTRUCTION = ('rfid', 'rsfid', 'is', *PAIRED)


def draw(
  model: types.Loaded,
  labels: np.ndarray,
  *,
  seed: int,
  sampler: generators.Sampler,
  batch_size: int,
  tokens: int | None = None,
  devices: Sequence[jax.Device] = (),
) -> Iterator[np.ndarray]:
  """Draws one image for each label.

  Args:
    model: a generator with its tokenizer; matmuls run in its dtype.
    labels: int [N].
    seed: with the number of a batch's first image it makes the batch's key, so
      that an image depends on the batch size too (as in `tokpress sample`).
    sampler: how codes are drawn.
    batch_size: B; the last batch is filled up.
    tokens: of each image; all if None.
    devices: which a batch is divided among; they must divide B.

  Yields:
    uint8 [B, H, W, C], the last batch smaller.
  """
  model = inference.for_inference(model, dtype=model.module.dtype)
  rows = None
  if devices:
    mesh = jax.sharding.Mesh(np.array(devices), ('data',))
    spec = jax.sharding.PartitionSpec
    rows = jax.sharding.NamedSharding(mesh, spec('data'))
    model = jax.device_put(model, jax.sharding.NamedSharding(mesh, spec()))
  key = jax.random.key(seed)
  for start in range(0, len(labels), batch_size):
    index = np.arange(start, start + batch_size) % len(labels)
    out = generators.sample(
      model,
      jax.device_put(labels[index], rows),
      rng=jax.random.fold_in(key, start),
      sampler=sampler,
      num_tokens=tokens,
    )
    images = images_lib.to_uint8(jax.device_get(out.images))
    yield images[: len(labels) - start]


def balanced_labels(count: int, classes: int, *, seed: int) -> np.ndarray:
  """Every class as often as any other, in an order drawn from the seed.

  The order matters to the Inception score of the usual evaluator, which cuts
  the file into ten parts.

  Args:
    count: N.
    classes: K; 0 gives all 0.
    seed: of the order.

  Returns:
    int32 [N].
  """
  labels = np.arange(count, dtype=np.int32) % max(classes, 1)
  return np.random.default_rng(seed).permutation(labels)


def measure_samples(
  batches: Iterable[np.ndarray],
  *,
  extractor: features_lib.FeatureExtractor,
  wanted: Sequence[str],
  source: Mapping[str, Any],
  reference: tuple[features_lib.ImageFeatures, Mapping[str, Any]] | None,
  shuffle_seed: int | None,
) -> Numbers:
  """Measures images that come in batches.

  Args:
    batches: uint8 [B, H, W, C].
    extractor: the network.
    wanted: of `metrics.METRICS`.
    source: where the images are from, for the recipe.
    reference: features and where they are from, from `read_reference`.
    shuffle_seed: see `metrics.inception_score`.
  """
  found = metrics.collect(extractor, batches, metrics=wanted)
  theirs = reference[0] if reference else None
  values = metrics.compare(
    found, theirs, metrics=wanted, shuffle_seed=shuffle_seed
  )
  return recipe.numbers(
    values,
    extractor=extractor,
    samples=found,
    reference=theirs,
    samples_from=source,
    reference_from=reference[1] if reference else None,
    shuffle_seed=shuffle_seed,
  )


def measure_tokenizer(
  model: types.Loaded,
  data: data_lib.DataConfig,
  *,
  extractor: features_lib.FeatureExtractor | None,
  wanted: Sequence[str],
  batch_size: int,
  tokens: int | None,
  shuffle_seed: int | None,
  source: Mapping[str, Any],
) -> Numbers:
  """Measures reconstructions against the images they are of.

  Args:
    model: a tokenizer.
    data: the images; `eval_split` is measured.
    extractor: the network, which `psnr` and `ssim` do without.
    wanted: of `RECONSTRUCTION`.
    batch_size: images at once.
    tokens: of each image; all if None.
    shuffle_seed: see `metrics.inception_score`.
    source: what the model is, for the recipe.
  """
  config = model.module.config
  length = legal_length(tokens or config.num_tokens, config.boundaries)
  window = min(11, (config.image_size - 1) // 2 * 2 + 1)
  needed = [name.removeprefix('r') for name in wanted if name not in PAIRED]
  ours, theirs = (
    _collector(extractor, {of[name] for name in needed if name in of})
    for of in (generation.OF_SAMPLES, generation.OF_REFERENCE)
  )

  @jax.jit
  def run(model, pixels):
    (encoded,) = model.encode_each(images_lib.to_float(pixels), tokens=[length])
    again = images_lib.to_uint8(model.decode(encoded))
    unit = lambda x: x.astype(jnp.float32) / 255
    found = {}
    if 'psnr' in wanted:
      found['psnr'] = metrics.psnr(unit(again), unit(pixels))
    if 'ssim' in wanted:
      found['ssim'] = metrics.ssim(unit(again), unit(pixels), window=window)
    return again, found

  paired: dict[str, list[np.ndarray]] = {n: [] for n in PAIRED if n in wanted}
  count = 0
  for batch in data_lib.eval_batches(data, batch_size=batch_size):
    valid = batch['valid']
    again, values = jax.device_get(run(model, batch['image']))
    for name, value in values.items():
      paired[name].append(value[valid])
    count += int(valid.sum())
    if ours is not None:
      ours.add(again[valid])
    if theirs is not None:
      theirs.add(batch['image'][valid])
  source = {**source, 'tokens': length}
  numbers: Numbers = {}
  if ours is not None and extractor is not None:
    found = ours.result()
    real = theirs.result() if theirs is not None else None
    numbers = recipe.numbers(
      metrics.compare(found, real, metrics=needed, shuffle_seed=shuffle_seed),
      extractor=extractor,
      samples=found,
      reference=real,
      samples_from={'reconstructions_by': source},
      reference_from=describe_data(data),
      shuffle_seed=shuffle_seed,
      prefix='r',
    )
  for name, parts in paired.items():
    own = {'window': window} if name == 'ssim' else {}
    numbers[name] = {
      'value': float(np.mean(np.concatenate(parts), dtype=np.float64)),
      'recipe': {
        'of': 'the mean over images, of uint8 pixels, peak 255',
        **own,
        'samples': {'count': count, 'reconstructions_by': source},
        'reference': describe_data(data),
        **recipe.environment(),
      },
    }
  return {name: numbers[name] for name in wanted}


def describe_model(model: types.Loaded) -> dict[str, Any]:
  """Says which weights, without saying where they lie."""
  found = {
    'model': model.spec.name,
    'fingerprint': safetensors.fingerprint(model.variables),
  }
  if model.tokenizer is not None:
    tokenizer = model.tokenizer
    found['tokenizer'] = tokenizer.spec.name
    found['tokenizer_fingerprint'] = safetensors.fingerprint(
      tokenizer.variables
    )
  return found


def describe_data(data: data_lib.DataConfig) -> dict[str, Any]:
  """Says which images."""
  return {
    'data': data.name,
    'split': data.eval_split,
    'image_size': data.image_size,
    'fit': data.fit,
  }


def describe_file(given: image_sets.ImageSet) -> dict[str, Any]:
  """Says which file."""
  if given.files:
    return {'folder': given.path.name}
  return {
    'file': given.path.name,
    'file_sha256': safetensors.file_sha256(given.path),
  }


def progress(
  batches: Iterable[np.ndarray], what: str, total: int | None = None
) -> Iterator[np.ndarray]:
  """Shows how many images have passed, on a terminal."""
  with tqdm.tqdm(total=total, desc=what, unit='image', disable=None) as bar:
    for images in batches:
      yield images
      bar.update(len(images))


def saved(
  batches: Iterable[np.ndarray],
  path: str | pathlib.Path,
  labels: np.ndarray,
) -> Iterator[np.ndarray]:
  """Passes images through, and writes them to an .npz with their classes."""
  writer = None
  for images in batches:
    if writer is None:
      shape = (len(labels), *images.shape[1:])
      writer = image_sets.ImageWriter(path, shape)
    writer.write(images)
    yield images
  if writer is not None:
    writer.close(labels)


def _collector(
  extractor: features_lib.FeatureExtractor | None, kept: set[str]
) -> features_lib.Collector | None:
  if extractor is None or not kept:
    return None
  return features_lib.Collector(extractor, kept)
