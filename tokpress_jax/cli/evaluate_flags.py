"""The flags of `tokpress evaluate`, and which of them go together."""

from __future__ import annotations

import dataclasses
from typing import Literal

import tyro

from tokpress_jax.cli import common
from tokpress_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(common.SamplerFlags):
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
    model: A work directory, a model directory, released weights by name, a
      file of `tokpress convert`, or a hub name.
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
  *(field.name for field in dataclasses.fields(common.SamplerFlags)),
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


def check_used(flags: Flags, what: str) -> None:
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
