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

  Runs of compressors (`compressor_task`) are reported by themselves: a table
  and a picture of accuracy against tokens, of what they evaluated last.

  Attributes:
    runs: Work directories of tokenizers, generators and a classifier, all on
      the same data set; with the classifier also what was fine-tuned from it
      with pruners inside, and rates that were learned for it.
    out: Where index.html and metrics.json go.
    samples: Samples of each generator.
    test_images: Test images to measure on, at most.
    step_counts: Numbers of steps at which generators that refine (MaskGIT) and
      tokenizers that decode by a flow are measured too, and drawn as a curve.
  """

  runs: tyro.conf.Positional[tuple[str, ...]]
  out: str
  samples: int = 500
  test_images: int = 1024
  step_counts: tuple[int, ...] = ()


def main(argv: Sequence[str]) -> None:
  """Writes the page and prints its tables."""
  flags = tyro.cli(Flags, args=list(argv), prog='tokpress report')
  if not flags.runs:
    raise UserError('Give at least one run: tokpress report runs/x --out DIR')
  if readers := _readers(flags.runs):
    from tokpress_jax.report import compressing

    where, text = compressing.write_compressing(readers, flags.out)
    print(f'{text}\n\n{where}')
    return
  found = measure(flags, command=f'tokpress report {shlex.join(argv)}')

  from tokpress_jax.report import render

  path, text = render.write_report(found, flags.out)
  print(f'\n{text}\n\n{path}')


def _readers(runs: Sequence[str]) -> dict[str, str]:
  """The runs by name, if they are of compressors; none if they are others.

  Raises:
    UserError: Some are, and some are not.
  """
  from tokpress_jax.train.tasks import CompressorTask

  tasks = {r: workdir_lib.read_config(r).task for r in runs}
  found = [r for r, task in tasks.items() if isinstance(task, CompressorTask)]
  if found and len(found) < len(tasks):
    rest = [r for r in tasks if r not in found]
    raise UserError(
      f'{", ".join(found)} are of compressors and {", ".join(rest)} are not; '
      'report them apart'
    )
  return {pathlib.Path(r).name: r for r in found}


def measure(flags: Flags, *, command: str = '') -> Any:
  """Measures every run.

  Args:
    flags: the options.
    command: shown on the page.

  Returns:
    A `report.Report`.
  """
  import numpy as np

  from tokpress_jax import metrics, report
  from tokpress_jax.io import load as load_lib

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
  images = report.image_set(used[0], max_test=flags.test_images)
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
  flowing = {n: m for n, m in of('tokenizer').items() if report.draws_steps(m)}
  flow_steps = {
    name: report.measure_flow_steps(model, images, flags.step_counts)
    for name, model in flowing.items()
    if flags.step_counts
  }
  samples, steps, accuracy = {}, {}, None
  if of('generator'):
    judge = metrics.train_judge(
      images.train,
      images.train_labels,
      num_classes=images.info.num_classes,
      seed=flags.seed,
    )
    accuracy = metrics.class_agreement(judge, images.test, images.test_labels)
    drawn = of('generator')
    refining = {n: m for n, m in drawn.items() if report.takes_steps(m)}
    if flags.step_counts and not refining and not flowing:
      raise UserError(
        '--step-counts are of a generator that refines (MaskGIT); there is '
        f'none among {", ".join(drawn)}'
      )
    options: dict[str, Any] = {'samples': flags.samples, 'seed': flags.seed}
    options['sampler'] = flags.sampler()
    for name, model in drawn.items():
      samples[name] = report.measure_generator(model, images, judge, **options)
      if flags.step_counts and name in refining:
        steps[name] = report.measure_steps(
          model, images, judge, flags.step_counts, **options
        )
  pruning = None
  if classifiers := of('model'):
    pruning = report.measure_pruners(classifiers, images)
  return report.Report(
    images=images,
    tokenizers=tokenizers,
    generators=samples,
    steps=steps,
    pruning=pruning,
    flow_steps=flow_steps,
    kmeans=kmeans,
    judge_accuracy=accuracy,
    curves={name: report.read_curves(run) for name, run in runs.items()},
    command=command,
  )
