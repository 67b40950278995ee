"""How a run went: its metrics file, and the curves of a tokenizer's scales."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

from tokpress_jax import viz
from tokpress_jax import workdir as workdir_lib
from tokpress_jax.tokenizers import PyramidConfig

Curve = tuple[list[int], list[float]]


def read_curves(run: str | os.PathLike[str]) -> dict[str, Curve]:
  """The numbers that a run wrote down.

  Args:
    run: its work directory.

  Returns:
    Name of the metric -> (steps, values).
  """
  found: dict[str, Curve] = {}
  path = pathlib.Path(run) / workdir_lib.METRICS
  for line in path.read_text().splitlines():
    row = json.loads(line)
    step = row.pop('step')
    for name, value in row.items():
      if isinstance(value, int | float):
        steps, values = found.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)
  return found


def scale_curves(
  curves: dict[str, Curve], config: Any, *, theme: viz.Theme = 'light'
) -> Any:
  """Mean squared error, PSNR by scales and each scale's perplexity, by step.

  Args:
    curves: of `read_curves`.
    config: of the tokenizer.
    theme: see `viz.panels`.

  Returns:
    A matplotlib figure; None if the tokenizer has no scales.
  """
  if not isinstance(config, PyramidConfig) or 'mse' not in curves:
    return None
  names = [f'{h} x {w}' for h, w in config.scales]
  psnr = [curves.get(f'eval/psnr_{n}') for n in config.boundaries]
  used = [curves.get(f'perplexity_{k + 1}') for k in range(len(names))]
  lines = lambda found: {
    name: curve for name, curve in zip(names, found, strict=True) if curve
  }
  return viz.panels(
    [
      ('Training loss', 'mean squared error', {'': curves['mse']}),
      ('Held-out images, up to a scale', 'PSNR (dB)', lines(psnr)),
      ('Codes in use by a scale', 'perplexity', lines(used)),
    ],
    x_label='step',
    key='scale',
    theme=theme,
  )
