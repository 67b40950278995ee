"""`tokpress evaluate --metrics`: samples, reconstructions, images.

Reads the flags of `cli.evaluate` and says what `cli.measure` shall do.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from tokpress_jax import metrics, workdir
from tokpress_jax.cli import measure
from tokpress_jax.cli import reference as reference_lib
from tokpress_jax.cli.evaluate_flags import Flags, check_used
from tokpress_jax.data.config import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.io import image_sets
from tokpress_jax.io import load as load_lib
from tokpress_jax.metrics import features, generation, inception
from tokpress_jax.types import Loaded


def compare(flags: Flags) -> measure.Numbers:
  """Measures what the flags name.

  Args:
    flags: of the command, checked here.

  Returns:
    Each number with its recipe; empty if only a reference was read.

  Raises:
    UserError: the flags do not go together, or something cannot be read.
  """
  if flags.samples and flags.model:
    raise UserError(f'Give a model or --samples, not both: {flags.model}.')
  if flags.model is None:
    return _images(flags)
  loaded = _load(flags)
  if loaded.spec.family == 'generator':
    return _generator(flags, loaded)
  if loaded.spec.family == 'tokenizer':
    return _tokenizer(flags, loaded)
  raise UserError(
    f'{flags.model} makes no images; these flags are for generators and '
    'tokenizers.'
  )


def _load(flags: Flags) -> Loaded:

  assert flags.model is not None
  if flags.step is not None:
    raise UserError(
      '--step is of a run. Write that checkpoint as a model first: '
      f'tokpress export {flags.model} DIR --step {flags.step}'
    )
  return load_lib.load(flags.model, dtype=jnp.dtype(flags.dtype))


def _images(flags: Flags) -> dict[str, Any]:
  """Images that are there; or a reference's statistics alone."""
  known: tuple[str, ...] = generation.METRICS
  if flags.samples is None:
    check_used(flags, 'a reference')
    known = ('fid', 'sfid')
  else:
    check_used(flags, 'images')
  wanted = flags.metrics or known
  generation.check_metrics(wanted, known)
  given = None if flags.samples is None else _opened(flags.samples)
  data = None
  if flags.data is not None:
    _, size, _, channels = given.shape if given else (0, None, 0, None)
    data = _data(flags, None, flags.image_size or size, channels)
  extractor = _extractor(flags)
  reference = _reference(flags, extractor, wanted, data)
  if given is None:
    return {}
  size = extractor.batch_size
  batches = measure.progress(given.batches(size), 'samples', given.shape[0])
  return measure.measure_samples(
    batches,
    extractor=extractor,
    wanted=wanted,
    source=measure.describe_file(given),
    reference=reference,
    shuffle_seed=_shuffle_seed(flags),
  )


def _generator(flags: Flags, model: Loaded) -> dict[str, Any]:

  check_used(flags, 'a generator')
  wanted = flags.metrics or generation.METRICS
  generation.check_metrics(wanted)
  if model.module.config.reads_text:
    raise UserError(
      f'{flags.model} draws texts, and this command draws classes. Sample with '
      'generators.sample and measure the file: --samples FILE.npz.'
    )
  classes = model.module.config.num_classes
  count = _count(flags, classes)
  if flags.save and not flags.save.endswith('.npz'):
    raise UserError(f'--save {flags.save}: give a name that ends in .npz.')
  sampler = flags.sampler()
  sampler.check(model.module.config.codebook_size)
  if model.tokenizer is None:
    raise UserError(
      f'{flags.model} has no tokenizer, so that it draws codes and no images.'
    )
  made = model.tokenizer.module.config
  needs = any(name in generation.OF_REFERENCE for name in wanted)
  data = None
  if needs and flags.reference is None:
    data = _data(flags, model, made.image_size, made.channels)
  extractor = _extractor(flags)
  reference = _reference(flags, extractor, wanted, data)
  labels = measure.balanced_labels(count, classes, seed=flags.seed)
  devices = features.local_devices()
  batches = measure.draw(
    model,
    labels,
    seed=flags.seed,
    sampler=sampler,
    batch_size=extractor.batch_size,
    tokens=flags.tokens,
    devices=devices if len(devices) > 1 else (),
  )
  batches = measure.progress(batches, 'samples', count)
  if flags.save:
    batches = measure.saved(batches, flags.save, labels)
  source = {
    'drawn_by': measure.describe_model(model),
    'classes': f'{classes}, each as often, in an order drawn from the seed',
    'seed': flags.seed,
    'sampler': dataclasses.asdict(sampler),
    'tokens': flags.tokens or model.module.config.num_tokens,
    'batch_size': extractor.batch_size,
    'dtype': flags.dtype,
    'random_bits': str(jax.random.key_impl(jax.random.key(0))),
    'pixels': 'rounded to uint8',
  }
  numbers = measure.measure_samples(
    batches,
    extractor=extractor,
    wanted=wanted,
    source=source,
    reference=reference,
    shuffle_seed=_shuffle_seed(flags),
  )
  if flags.save:
    print(f'{count} samples: {flags.save}')
  return numbers


def _tokenizer(flags: Flags, model: Loaded) -> dict[str, Any]:

  check_used(flags, 'a tokenizer')
  wanted = flags.metrics or measure.RECONSTRUCTION
  generation.check_metrics(wanted, measure.RECONSTRUCTION)
  config = model.module.config
  data = _data(flags, model, config.image_size, config.channels)
  extractor = None
  if set(wanted) - set(measure.PAIRED):
    extractor = _extractor(flags)
  return measure.measure_tokenizer(
    model,
    data,
    extractor=extractor,
    wanted=wanted,
    batch_size=_batch_size(flags),
    tokens=flags.tokens,
    shuffle_seed=_shuffle_seed(flags),
    source={**measure.describe_model(model), 'dtype': flags.dtype},
  )


def _count(flags: Flags, classes: int) -> int:
  if flags.num_samples is not None and flags.per_class is not None:
    raise UserError('Give --num-samples or --per-class, not both.')
  count = 50_000 if flags.num_samples is None else flags.num_samples
  if flags.per_class is not None:
    count = flags.per_class * max(classes, 1)
  if count < 1:
    raise UserError(f'{count} samples: give at least 1.')
  return count


def _batch_size(flags: Flags) -> int:
  size = 64 if flags.batch_size is None else flags.batch_size
  if size < 1:
    raise UserError(f'--batch-size {size}: give at least 1.')
  return size


def _shuffle_seed(flags: Flags) -> int | None:

  return generation.SHUFFLE_SEED if flags.is_order == 'shuffled' else None


def _extractor(flags: Flags) -> Any:

  if flags.inception is None:
    raise UserError(
      "These numbers need the FID's Inception network: --inception FILE. "
      f'{inception.WHERE}'
    )
  weights = metrics.load_inception(flags.inception)
  print(
    f'{weights.file}, sha256 {weights.sha256[:16]}..., resize {flags.resize}'
  )
  return metrics.FeatureExtractor(
    weights, resize=flags.resize, batch_size=_batch_size(flags)
  )


def _opened(path: str) -> Any:

  given = image_sets.open_images(path)
  if given.shape is None:
    raise UserError(
      f'{path} holds statistics and no images; --samples are images (arr_0).'
    )
  return given


def _reference(
  flags: Flags, extractor: Any, wanted: Sequence[str], data: DataConfig | None
) -> Any:
  """Features of the reference and where they are from, or None."""
  need = [name for name in wanted if name in generation.OF_REFERENCE]
  if not need:
    return None
  if flags.reference is not None and flags.data is not None:
    raise UserError('Give --reference or --data, not both.')
  if flags.reference is None and data is None:
    raise UserError(
      f'{", ".join(need)} compare with real images: --reference FILE.npz, or '
      '--data NAME --split SPLIT.'
    )
  given: Any = data
  if flags.reference is not None:
    given = image_sets.open_images(flags.reference)
  reference = reference_lib.read_reference(
    given, extractor=extractor, wanted=wanted, batch_size=extractor.batch_size
  )
  if flags.save_statistics:
    reference_lib.save_statistics(flags.save_statistics, *reference, extractor)
    print(f'statistics of the reference: {flags.save_statistics}')
  return reference


def _data(
  flags: Flags,
  model: Loaded | None,
  image_size: int | None,
  channels: int | None = None,
) -> DataConfig:
  """The data set that is asked for, in the size of what it is compared with."""
  base = DataConfig()
  if model is not None and flags.data is None:
    path = pathlib.Path(model.spec.source)
    if not workdir.is_workdir(path):
      raise UserError(
        f'{flags.model} is an exported model: say with what to compare it, '
        'such as --data digits (or, for a generator, --reference FILE.npz).'
      )
    base = workdir.read_config(path).data
  fields: dict[str, Any] = {
    'name': flags.data,
    'eval_split': flags.split,
    'data_dir': flags.data_dir,
    'image_size': image_size,
    'channels': channels,
  }
  given = {k: v for k, v in fields.items() if v is not None}
  return dataclasses.replace(base, **given)
