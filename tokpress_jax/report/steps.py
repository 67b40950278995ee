"""How a generator's samples change with the number of its steps.

Only one that refines (MaskGIT) takes any number of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokpress_jax import generators, metrics, types, viz
from tokpress_jax.errors import UserError
from tokpress_jax.report.images import ImageSet
from tokpress_jax.report.samples import SampleResult, measure_generator

if TYPE_CHECKING:
  from matplotlib.figure import Figure


def takes_steps(generator: types.Loaded) -> bool:
  """Whether a generator's number of steps can be chosen."""
  return hasattr(generator.module.config, 'steps')


def measure_steps(
  generator: types.Loaded,
  images: ImageSet,
  judge: metrics.Judge,
  counts: Sequence[int],
  *,
  sampler: generators.Sampler | None = None,
  **options: Any,
) -> dict[int, SampleResult]:
  """Measures a generator at several numbers of steps.

  Args:
    generator: one for which `takes_steps`.
    images: see `measure_generator`.
    judge: see `measure_generator`.
    counts: the numbers of steps.
    sampler: how codes are drawn; its own number of steps is not read.
    **options: of `measure_generator`.

  Returns:
    Number of steps -> result, rising.

  Raises:
    UserError: for a number that is no number of steps.
  """
  most = generator.module.config.num_tokens
  wrong = [n for n in counts if not 1 <= n <= most]
  if wrong:
    raise UserError(
      f'{wrong} are no numbers of steps of this generator, which draws its '
      f'{most} tokens in 1 to {most}'
    )
  sampler = sampler or generators.Sampler()
  return {
    n: measure_generator(
      generator,
      images,
      judge,
      sampler=dataclasses.replace(sampler, steps=n),
      **options,
    )
    for n in sorted(set(counts))
  }


def steps_figure(
  results: dict[int, SampleResult], *, theme: viz.Theme = 'light'
) -> Figure:
  """Fréchet distance, diversity and agreement by the number of steps."""
  steps = list(results)
  line = lambda name: {
    '': (steps, [getattr(r, name) for r in results.values()])
  }
  return viz.panels(
    [
      (
        'Fréchet distance to test images',
        'less is better',
        line('frechet'),
      ),
      (
        'Diversity within a class',
        'of that of test images',
        line('diversity'),
      ),
      (
        'Judged as the class asked for',
        'share of samples',
        line('class_agreement'),
      ),
    ],
    x_label='steps',
    x_log2=True,
    theme=theme,
  )
