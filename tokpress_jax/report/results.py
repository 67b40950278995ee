"""Everything a report holds, and its numbers for `metrics.json`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tokpress_jax import metrics
from tokpress_jax.report import training
from tokpress_jax.report.flow_steps import FlowStepsResult
from tokpress_jax.report.images import ImageSet
from tokpress_jax.report.pruning import PruningResult
from tokpress_jax.report.samples import SampleResult
from tokpress_jax.report.tokenizing import TokenizerResult


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Everything that was measured, by the name of the run.

  Attributes:
    images: what it was measured on.
    tokenizers: results; the first is what `tokens` and `psnr` of the metrics
      file are.
    generators: results; the first has the plain names in the metrics file, the
      others carry their name behind.
    steps: results by the number of steps, of generators that were measured at
      several.
    pruning: results of one classifier and of what was tuned from it, or None.
    kmeans: k-means patch coding at the budget of each tokenizer.
    judge_accuracy: of the judge on the test images; None without generators.
    curves: name to the metrics of its training, see `read_curves`.
    command: that makes the report again.
    flow_steps: results by the number of steps, of tokenizers that decode by a
      flow.
  """

  images: ImageSet
  tokenizers: Mapping[str, TokenizerResult]
  generators: Mapping[str, SampleResult]
  steps: Mapping[str, Mapping[int, SampleResult]]
  pruning: PruningResult | None
  kmeans: Mapping[str, metrics.PatchCoding]
  judge_accuracy: float | None
  curves: Mapping[str, Mapping[str, training.Curve]]
  command: str = ''
  flow_steps: Mapping[str, Mapping[int, FlowStepsResult]] = dataclasses.field(
    default_factory=dict
  )


def numbers_of(report: Report) -> dict[str, Any]:
  """The contents of `metrics.json`."""
  found: dict[str, Any] = {}
  for i, (name, result) in enumerate(report.tokenizers.items()):
    tail = f'_{name}' if i else ''
    coded = report.kmeans[name]
    found |= {
      f'tokens{tail}': list(result.tokens),
      f'bits{tail}': list(result.bits),
      f'psnr{tail}': list(result.psnr),
      f'ssim{tail}': list(result.ssim),
      f'codebook_usage{tail}': result.usage,
      f'codebook_perplexity{tail}': result.perplexity,
      f'kmeans_psnr{tail}': coded.psnr,
      f'kmeans_bits{tail}': coded.bits,
    }
    if result.quality:
      found[f'quality{tail}'] = [
        {**dataclasses.asdict(cost), 'saved': cost.saved}
        for cost in result.quality
      ]
    if name in report.flow_steps:
      found[f'flow_steps{tail}'] = {
        n: dataclasses.asdict(r) for n, r in report.flow_steps[name].items()
      }
    if result.scales:
      found[f'scales{tail}'] = {
        images: [
          {**dataclasses.asdict(row), 'ratio': row.ratio} for row in rows
        ]
        for images, rows in result.scales.items()
      }
  if report.judge_accuracy is not None:
    found['judge_accuracy'] = report.judge_accuracy
  for i, (name, drawn) in enumerate(report.generators.items()):
    tail = f'_{name}' if i else ''
    found |= {f'{key}{tail}': x for key, x in _drawn_numbers(drawn).items()}
    if name in report.steps:
      found[f'steps{tail}'] = {
        n: _drawn_numbers(result) for n, result in report.steps[name].items()
      }
  if report.pruning is not None:
    found['pruning'] = [dataclasses.asdict(r) for r in report.pruning.rows]
  return found


def _drawn_numbers(drawn: SampleResult) -> dict[str, Any]:
  """What is said of one generator's samples."""
  return {
    'samples': len(drawn.samples),
    'sample_class_agreement': drawn.class_agreement,
    'sample_diversity': drawn.diversity,
    'knn_precision': drawn.precision,
    'knn_recall': drawn.recall,
    'frechet_distance': drawn.frechet,
    'frechet_distance_of_training_images': drawn.frechet_floor,
    'nearest_train_distance': {
      'samples': drawn.nearest_train,
      'test': drawn.nearest_train_test,
    },
  }
