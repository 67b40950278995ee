"""`tokpress report RUN ... --out DIR`: measure runs, make one page."""

import dataclasses
import pathlib
import shlex
from collections.abc import Sequence
from typing import Any

import tyro

from tokpress_jax import workdir as workdir_lib
from tokpress_jax.cli import common
from tokpress_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags(common.SamplerFlags):
  """Measure trained runs on their data set and show them on one page.

  Attributes:
    runs: Work directories of tokenizers, generators and a classifier, all on
      the same data set.
    out: Where index.html and metrics.json go.
    samples: Samples of each generator.
  """

  runs: tyro.conf.Positional[tuple[str, ...]]
  out: str
  samples: int = 500


def main(argv: Sequence[str]) -> None:
  """Writes the page and prints its tables."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress report')
  if not flags.runs:
    raise UserError('Give at least one run: tokpress report runs/x --out DIR')
  found = measure(flags, command=f'tokpress report {shlex.join(argv)}')

  from tokpress_jax.report import render

  path, text = render.write_report(found, flags.out)
  print(f'\n{text}\n\n{path}')


def measure(flags: Flags, *, command: str = '') -> Any:
  """Measures every run.

  Args:
    flags: the options.
    command: shown on the page.

  Returns:
    A `report.render.Report`.
  """
  import numpy as np

  from tokpress_jax import metrics, report
  from tokpress_jax.io import load as load_lib
  from tokpress_jax.report import render

  runs = {pathlib.Path(r).name: r for r in flags.runs}
  configs = {name: workdir_lib.read_config(r) for name, r in runs.items()}
  # Tokens are of the images that another run was trained on.
  used = [c.data for c in configs.values() if c.data.name != 'tokens']
  if not used:
    raise UserError(
      'tokens hold no images to compare samples with; name a run that was '
      "trained on images too, such as the tokenizer's"
    )
  other = [data for data in used if data != used[0]]
  if other:
    raise UserError(
      f'the runs were trained on different data: {used[0]} and {other[0]}; '
      'report them apart'
    )
  images = report.image_set(used[0])
  models = {name: load_lib.load(run) for name, run in runs.items()}
  of = lambda family: {
    n: m for n, m in models.items() if m.spec.family == family
  }

  tokenizers = {
    name: report.measure_tokenizer(model, images)
    for name, model in of('tokenizer').items()
  }
  unit = lambda x: (np.asarray(x) + 1) / 2
  kmeans = {
    name: metrics.patch_coding(
      unit(images.train), unit(images.test), bits=int(result.bits[-1])
    )
    for name, result in tokenizers.items()
  }
  samples, accuracy = {}, None
  if of('generator'):
    judge = metrics.train_judge(
      images.train,
      images.train_labels,
      num_classes=images.info.num_classes,
      seed=flags.seed,
    )
    accuracy = metrics.class_agreement(judge, images.test, images.test_labels)
    sampler = flags.sampler()
    for name, model in of('generator').items():
      samples[name] = report.measure_generator(
        model,
        images,
        judge,
        samples=flags.samples,
        sampler=sampler,
        seed=flags.seed,
      )
  pruning = None
  for model in of('model').values():
    pruning = report.measure_pruners(model, images)
  return render.Report(
    images=images,
    tokenizers=tokenizers,
    generators=samples,
    pruning=pruning,
    kmeans=kmeans,
    judge_accuracy=accuracy,
    curves={name: report.read_curves(run) for name, run in runs.items()},
    command=command,
  )
