"""`tokpress evaluate`: a run, a model, or images, by their numbers."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any, Literal

import tyro

from tokpress_jax import config as config_lib
from tokpress_jax import workdir
from tokpress_jax.data.config import DataConfig
from tokpress_jax.errors import UserError
from tokpress_jax.io import export, hub
from tokpress_jax.train.config import MeshConfig, TrainConfig
from tokpress_jax.types import Loaded

_FILE = 'evaluation.json'
_MANY = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
  """Measure a run, a model, or a set of images.

  `tokpress evaluate MODEL` gives what the model's own task measures, on the
  evaluation split of a data set.

  `tokpress evaluate GENERATOR --metrics fid sfid is precision recall
  --inception inception.safetensors --reference reference.npz` draws samples and
  compares them with a reference; `--samples samples.npz` instead of a model
  measures samples that are there. `tokpress evaluate TOKENIZER --data NAME
  --metrics rfid psnr ssim --inception ...` measures reconstructions. Every
  number is written with its recipe, `evaluation.json` by default.

  Attributes:
    model: A work directory, a model directory or a hub name.
    step: Of a run: the checkpoint; the newest valid one by default.
    data: The data set; by default the one that a run was trained on. With
      --metrics of a generator or of --samples: the reference.
    split: The split; by default the run's `data.eval_split`.
    data_dir: Where data sets lie; of `folder`, the images.
    batch_size: Images at once; by default the run's, and 64 with --metrics.
    json: Also write the metrics to this file.
    metrics: fid, sfid, is, precision, recall; of a tokenizer rfid, rsfid, is,
      psnr, ssim.
    inception: The FID's Inception network, made by `tokpress convert`.
    resize: What happens to pixels before it: tf1 as in the original FID and in
      the usual ImageNet evaluator, clean as in clean-fid, torch as in
      pytorch-fid.
    reference: An .npz of images (arr_0) or statistics (mu, sigma, mu_s,
      sigma_s) or both, such as VIRTUAL_imagenet256_labeled.npz; or a folder.
    samples: An .npz of images (arr_0), or a folder, to measure.
    num_samples: Samples to draw, every class as often; 50,000 by default.
    per_class: Samples to draw of each class, instead.
    seed: The same seed gives the same samples, for one batch size.
    guidance: Scale of classifier-free guidance; none by default.
    schedule: Of the guidance over the steps.
    temperature: Of the draw; 0 takes the most probable code.
    top_k: Draw among the k most probable codes only.
    top_p: Draw among the most probable codes that hold this much.
    tokens: Tokens per image; all by default.
    dtype: Of the model's matmuls.
    is_order: Whether the Inception score's ten parts are cut from the samples
      shuffled (by a fixed seed), or as they lie in the file.
    image_size: Side of the images of --data, if the samples do not say it.
    save: Write the samples to this .npz, as the usual ImageNet evaluator reads
      it: images as arr_0, classes as arr_1.
    save_statistics: Write the reference's mu, sigma, mu_s, sigma_s to this
      .npz, which a later --reference takes.
  """

  model: tyro.conf.Positional[str | None] = None
  step: int | None = None
  data: str | None = None
  split: str | None = None
  data_dir: str | None = None
  batch_size: int | None = None
  json: str | None = None
  metrics: tuple[str, ...] = ()
  inception: str | None = None
  resize: Literal['tf1', 'clean', 'torch'] = 'tf1'
  reference: str | None = None
  samples: str | None = None
  num_samples: int | None = None
  per_class: int | None = None
  seed: int = 0
  guidance: float | None = None
  schedule: str = 'linear'
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  tokens: int | None = None
  dtype: Literal['float32', 'bfloat16'] = 'float32'
  is_order: Literal['shuffled', 'file'] = 'shuffled'
  image_size: int | None = None
  save: str | None = None
  save_statistics: str | None = None


_ANY = ('model', 'data', 'split', 'data_dir', 'batch_size', 'json')
_NETWORK = (*_ANY, 'metrics', 'inception', 'resize', 'is_order')
_DRAW = (
  'num_samples',
  'per_class',
  'seed',
  'guidance',
  'schedule',
  'temperature',
  'top_k',
  'top_p',
)
# Which flags mean something for what is measured.
_USED = {
  'a model by its own task': (*_ANY, 'step'),
  'a generator': (
    *_NETWORK,
    *_DRAW,
    'tokens',
    'dtype',
    'reference',
    'save',
    'save_statistics',
  ),
  'a tokenizer': (*_NETWORK, 'tokens', 'dtype'),
  'images': (
    *_NETWORK,
    'samples',
    'reference',
    'image_size',
    'save_statistics',
  ),
  'a reference': (*_NETWORK, 'reference', 'image_size', 'save_statistics'),
}


def main(argv: Sequence[str]) -> None:
  """Prints the metrics, one per line."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress evaluate')
  if flags.model is None and not (flags.samples or flags.save_statistics):
    raise UserError(
      'Name a model, or --samples FILE.npz to measure images that are there.'
    )
  compares = flags.metrics or flags.inception or flags.reference or flags.save
  if flags.model is None or flags.samples or compares:
    _compare(flags)
    return
  _check_used(flags, 'a model by its own task')
  found = _by_task(flags, hub.resolve(flags.model))
  for name, value in found.items():
    print(f'{name:24} {value:.6g}')
  if flags.json:
    _write(flags.json, found)


def _write(path: str, found: Any) -> None:
  out = pathlib.Path(path)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(found, indent=2) + '\n')


def _check_used(flags: Flags, what: str) -> None:
  """Raises UserError for flags that would change nothing."""
  idle = [
    f'--{field.name.replace("_", "-")}'
    for field in dataclasses.fields(Flags)
    if field.name not in _USED[what]
    and getattr(flags, field.name) != field.default
  ]
  if idle:
    hint = ' (--metrics compares images)' if what.startswith('a model') else ''
    raise UserError(
      f'{", ".join(idle)} means nothing when {what} is measured{hint}. Leave '
      'it out.'
    )


def _by_task(flags: Flags, path: pathlib.Path) -> dict[str, float]:
  """The metrics of the task that trains such a model."""
  if path.is_file():
    raise UserError(
      f'{flags.model} is a file of weights, without a task: say what to '
      'measure by --metrics (see `tokpress evaluate --help`).'
    )
  if workdir.is_workdir(path):
    from tokpress_jax.train.evaluate import evaluate

    config = _override(workdir.read_config(path), flags)
    print(_measured(config.data))
    return evaluate(config, path, flags.step)
  if not (path / export.CONFIG).is_file():
    raise UserError(
      f'{path} is neither a work directory nor a model directory (it has no '
      f'{export.CONFIG}). Give the --workdir of a `tokpress train`, or what '
      '`tokpress export` wrote.'
    )
  if flags.data is None:
    raise UserError(
      f'{flags.model} is an exported model: say on what to measure it, such '
      'as --data digits.'
    )
  return _evaluate_model(path, flags)


def _compare(flags: Flags) -> None:
  """Measures images by the Inception network, and writes the recipes."""
  if flags.samples and flags.model:
    raise UserError(f'Give a model or --samples, not both: {flags.model}.')
  if flags.model is None:
    numbers = _images(flags)
  else:
    loaded = _load(flags)
    family = loaded.spec.family
    if family not in ('generator', 'tokenizer'):
      raise UserError(
        f'{flags.model} makes no images; these flags are for generators and '
        'tokenizers.'
      )
    measure = _generator if family == 'generator' else _tokenizer
    numbers = measure(flags, loaded)
  if not numbers:
    return
  for name, number in numbers.items():
    print(f'{name:24} {number["value"]:.6g}')
  few = [
    f'{name} of {number["recipe"]["samples"]["count"]:,} samples'
    for name, number in numbers.items()
    if name.endswith('fid') and number['recipe']['samples']['count'] < _MANY
  ]
  if few:
    print(
      f'note: {", ".join(few)} is too large by an amount that depends on their '
      'number; compare with numbers of as many (published ones take 50,000)'
    )
  out = flags.json or _FILE
  _write(out, numbers)
  print(f'numbers and their recipes: {out}')


def _load(flags: Flags) -> Loaded:
  import jax.numpy as jnp

  assert flags.model is not None
  if flags.step is not None:
    raise UserError(
      '--step is of a run. Write that checkpoint as a model first: '
      f'tokpress export {flags.model} DIR --step {flags.step}'
    )
  return export.load(flags.model, dtype=jnp.dtype(flags.dtype))


def _images(flags: Flags) -> dict[str, Any]:
  """Images that are there; or a reference's statistics alone."""
  from tokpress_jax.cli import measure
  from tokpress_jax.metrics import generation

  known: tuple[str, ...] = generation.METRICS
  if flags.samples is None:
    _check_used(flags, 'a reference')
    known = ('fid', 'sfid')
  else:
    _check_used(flags, 'images')
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
  import jax

  from tokpress_jax import generators
  from tokpress_jax.cli import measure
  from tokpress_jax.metrics import generation

  _check_used(flags, 'a generator')
  wanted = flags.metrics or generation.METRICS
  generation.check_metrics(wanted)
  classes = model.module.config.num_classes
  count = _count(flags, classes)
  if flags.save and not flags.save.endswith('.npz'):
    raise UserError(f'--save {flags.save}: give a name that ends in .npz.')
  sampler = generators.Sampler(
    temperature=flags.temperature,
    top_k=flags.top_k,
    top_p=flags.top_p,
    guidance=flags.guidance,
    schedule=flags.schedule,
  )
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
  devices = generation.local_devices()
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
  from tokpress_jax.cli import measure
  from tokpress_jax.metrics import generation

  _check_used(flags, 'a tokenizer')
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
  from tokpress_jax.metrics import generation

  return generation.SHUFFLE_SEED if flags.is_order == 'shuffled' else None


def _extractor(flags: Flags) -> Any:
  from tokpress_jax import metrics
  from tokpress_jax.metrics import inception

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
  from tokpress_jax.io import image_sets

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
  from tokpress_jax.cli import measure
  from tokpress_jax.io import image_sets
  from tokpress_jax.metrics import generation

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
  reference = measure.read_reference(
    given, extractor=extractor, wanted=wanted, batch_size=extractor.batch_size
  )
  if flags.save_statistics:
    measure.save_statistics(flags.save_statistics, *reference, extractor)
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


def _evaluate_model(path: pathlib.Path, flags: Flags) -> dict[str, float]:
  import jax

  from tokpress_jax.train.evaluate import Evaluator
  from tokpress_jax.train.job import prepare
  from tokpress_jax.train.task import FROZEN

  loaded = export.load(path)
  data = DataConfig(
    image_size=getattr(loaded.module.config, 'image_size', None)
  )
  if loaded.tokenizer is not None:
    size = loaded.tokenizer.module.config.image_size
    data = dataclasses.replace(data, image_size=size)
  base = config_lib.Config(
    name=loaded.spec.name,
    task=_task(loaded, path),
    data=data,
    train=TrainConfig(),
    mesh=MeshConfig(),
  )
  config = _override(base, flags)
  print(_measured(config.data))
  job = prepare(config)
  variables = dict(loaded.variables)
  if FROZEN in job.abstract.variables:
    variables[FROZEN] = job.constants
  with jax.set_mesh(job.mesh):
    return Evaluator(job)(job.place(variables))


def _measured(data: DataConfig) -> str:
  return f'measured on data set {data.name}, split {data.eval_split}'


def _task(loaded: Loaded, path: pathlib.Path) -> Any:
  """The task that would have trained this model."""
  from tokpress_jax.train import tasks

  config = loaded.module.config
  if loaded.spec.family == 'tokenizer':
    return tasks.TokenizerTask(model=config)
  if loaded.spec.family == 'generator':
    tokenizer = str(path / export.TOKENIZER)
    return tasks.GeneratorTask(model=config, tokenizer=tokenizer)
  return tasks.ClassifierTask(model=config)


def _override(config: config_lib.Config, flags: Flags) -> config_lib.Config:
  given = lambda **fields: {k: v for k, v in fields.items() if v is not None}
  return dataclasses.replace(
    config,
    data=dataclasses.replace(
      config.data,
      **given(name=flags.data, eval_split=flags.split, data_dir=flags.data_dir),
    ),
    train=dataclasses.replace(
      config.train, **given(batch_size=flags.batch_size)
    ),
  )
