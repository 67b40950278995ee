"""How what a flow decodes changes with the number of its steps.

Dimension letters: N images, K numbers of tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from tokpress_jax import metrics, types, viz
from tokpress_jax.errors import UserError
from tokpress_jax.report.images import ImageSet
from tokpress_jax.train.tasks.tokenizer import shown_lengths

if TYPE_CHECKING:
  from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowStepsResult:
  """What a number of steps reaches on test images.

  Attributes:
    tokens: K numbers of tokens, rising.
    psnr: of each, mean over images in dB, values in [0, 1], peak 1.
    ssim: of each, mean over images.
  """

  tokens: tuple[int, ...]
  psnr: tuple[float, ...]
  ssim: tuple[float, ...]


def draws_steps(tokenizer: types.Loaded) -> bool:
  """Whether a tokenizer decodes in a number of steps that can be chosen."""
  return tokenizer.module.config.draws


def measure_flow_steps(
  tokenizer: types.Loaded,
  images: ImageSet,
  counts: Sequence[int],
  *,
  most: int = 256,
) -> dict[int, FlowStepsResult]:
  """Decodes test images in several numbers of steps, from the same noise.

  Args:
    tokenizer: one for which `draws_steps`.
    images: what it is measured on.
    counts: the numbers of steps.
    most: images that are decoded.

  Returns:
    Number of steps -> result, rising; with the fewest tokens, a middle number
    of them, and all.

  Raises:
    UserError: for a number that is no number of steps.
  """
  wrong = [n for n in counts if n < 1]
  if wrong:
    raise UserError(f'{wrong} are no numbers of steps of a flow: 1 or more')
  config = tokenizer.module.config
  lengths = shown_lengths(config.boundaries)
  tokens = tuple(sorted({lengths[0], lengths[len(lengths) // 2], lengths[-1]}))
  test = jnp.asarray(images.test[:most])
  codes = jax.jit(lambda t, x: t.encode(x).codes)(tokenizer, test)
  decode = jax.jit(
    lambda t, codes, n, sampler: t.decode_codes(
      codes, length=n, sampler=sampler
    )
  )
  unit = lambda x: (x + 1) / 2
  side = min(test.shape[1:3])
  window = min(11, side - 1 + side % 2)
  found = {}
  for steps in sorted(set(counts)):
    sampler = config.sampler.replace(steps=steps)
    psnr, ssim = [], []
    for n in tokens:
      again = unit(decode(tokenizer, codes, n, sampler))
      psnr.append(float(jnp.mean(metrics.psnr(again, unit(test)))))
      similar = metrics.ssim(again, unit(test), window=window)
      ssim.append(float(jnp.mean(similar)))
    found[steps] = FlowStepsResult(
      tokens=tokens, psnr=tuple(psnr), ssim=tuple(ssim)
    )
  return found


def flow_steps_figure(
  results: dict[int, FlowStepsResult], *, theme: viz.Theme = 'light'
) -> Figure:
  """PSNR and SSIM by the number of steps, a line for each number of tokens."""
  tokens = next(iter(results.values())).tokens
  lines = lambda name: {
    str(n): (
      list(results),
      [np.asarray(getattr(r, name))[i].item() for r in results.values()],
    )
    for i, n in enumerate(tokens)
  }
  return viz.panels(
    [
      ('PSNR (dB)', 'more is better', lines('psnr')),
      ('SSIM', 'more is better', lines('ssim')),
    ],
    x_label='steps',
    x_log2=True,
    key='tokens',
    theme=theme,
  )
