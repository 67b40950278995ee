"""Layer schedules: how many tokens enter each layer, as static numbers.

`linear_schedule` of `budgets` counts what ToMe removes. Those here give what is
left: fractions of the tokens at the embedding (`keep_linear`, `keep_cosine`,
`keep_sigmoid`), which `to_counts` makes whole, or counts (`at_layers`,
`pyramid`, `drop_all_after`). Entry l is what layer l, counted from 0, works on;
a stage "before layer l" is a paper's "after l layers". `flops.equal_tokens`
means over them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

from tokpress_jax.errors import UserError
from tokpress_jax.pruners import budgets

Rounding = Literal['floor', 'round', 'ceil']
_ROUND: dict[str, Callable[[Fraction], int]] = {
  'floor': math.floor,
  'round': round,
  'ceil': math.ceil,
}


def at_layers(
  stages: Mapping[int, budgets.Budget], *, depth: int, tokens: int
) -> tuple[int, ...]:
  """Tokens that each layer works on if some layers prune before they run.

  FastV {K: ratio}, PyramidDrop {8, 16, 24}, TransPrune {7, 9, 12}. A method
  that prunes inside a layer has its stage at the next one: SparseVLM, inside 2,
  6 and 15, is {3, 7, 16} with counts; its own comment counts {2, 6, 16}.

  Args:
    stages: layer to budget; of='original' counts the tokens at the embedding.
    depth: layers.
    tokens: at the embedding.

  Returns:
    `depth` numbers.

  Raises:
    ValueError: if a layer is not one of the host's.
  """
  if outside := sorted(set(stages) - set(range(depth))):
    raise UserError(
      f'layers {outside} are not in 0 to {depth - 1}, counted from 0'
    )
  now, counts = tokens, []
  for layer in range(depth):
    if layer in stages:
      now = budgets.resolve(stages[layer], now, tokens)
    counts.append(now)
  return tuple(counts)


def drop_all_after(layer: int, *, depth: int, tokens: int) -> tuple[int, ...]:
  """All tokens in layers 0 to `layer`, none behind (ToDRE).

  Args:
    layer: the last with tokens.
    depth: layers.
    tokens: of the layers before.

  Returns:
    `depth` numbers.
  """
  return tuple(tokens if i <= layer else 0 for i in range(depth))


def keep_linear(
  *, depth: int, start: int = 14, slope: float = 0.125
) -> tuple[float, ...]:
  """All until a layer, then a constant part less in each (AIM).

  AIM (arXiv:2412.03248, section 3.2): 1 for l < start, then
  1 - (l - start + 1) slope, at least 0; of the tokens that merging has left.
  What is dropped behind layer l is missing in layer l + 1, and counted there.

  Args:
    depth: layers.
    start: the first that keeps less.
    slope: of the original tokens, lost in each layer.

  Returns:
    `depth` fractions.
  """
  lost = Fraction(str(slope))
  left = (1 - max(i - start + 1, 0) * lost for i in range(depth))
  return tuple(max(float(x), 0.0) for x in left)


def keep_cosine(
  *, depth: int, shift: float = 0.5, most: float = 0.85, least: float = 0.15
) -> tuple[float, ...]:
  """Half a cosine, shifted and cut (p-MoD, arXiv:2412.04449, section 3.3).

  cos(pi l / (depth - 1)) / 2 + shift; above `most` a layer keeps all, and
  counts as 1 in a mean (53.8% of 32 layers, as published).

  Args:
    depth: layers, at least 2.
    shift: rho.
    most: the largest fraction of a layer that skips tokens.
    least: the smallest.

  Returns:
    `depth` fractions.
  """
  curve = (
    math.cos(math.pi * i / (depth - 1)) / 2 + shift for i in range(depth)
  )
  return tuple(1.0 if x > most else max(x, least) for x in curve)


def keep_sigmoid(
  *,
  depth: int,
  steepness: float,
  middle: float,
  most: float = 1.0,
  least: float = 0.0,
) -> tuple[float, ...]:
  """A falling sigmoid over layers (P-Sigmoid, arXiv:2412.00556).

  least + (most - least) / (1 + exp(steepness (l - middle))). The paper's own
  parametrisation is not public; this form is our choice.

  Args:
    depth: layers.
    steepness: per layer.
    middle: the layer at half height.
    most: above.
    least: below.

  Returns:
    `depth` fractions.
  """
  # tanh does not overflow.
  fall = lambda i: (1 - math.tanh(steepness * (i - middle) / 2)) / 2
  return tuple(least + (most - least) * fall(i) for i in range(depth))


def to_counts(
  fractions: Sequence[float],
  tokens: int,
  *,
  rounding: Rounding = 'floor',
  minimum: int = 0,
) -> tuple[int, ...]:
  """Makes fractions of the tokens at the embedding whole, layer by layer.

  Args:
    fractions: of each layer, in [0, 1].
    tokens: at the embedding.
    rounding: of each product; the decimal that is written counts.
    minimum: the fewest tokens of a layer.

  Returns:
    As many numbers.

  Raises:
    ValueError: if a fraction lies outside.
  """
  if bad := [x for x in fractions if not 0 <= x <= 1]:
    raise UserError(f'fractions lie in [0, 1], got {bad}')
  whole = (_ROUND[rounding](Fraction(str(x)) * tokens) for x in fractions)
  return tuple(min(max(n, minimum), tokens) for n in whole)


def pyramid(
  *,
  depth: int,
  tokens: int,
  ratio: float,
  window: int = 64,
  beta: float = 20.0,
) -> tuple[int, ...]:
  """Many in the first layers, few in the last (PyramidKV, arXiv:2406.02069).

  On a line from layer 0 to the last, the mean being tokens * ratio less nothing
  but rounding; as kvpress has it, a line that leaves [window, tokens] becomes
  even.

  Args:
    depth: layers, at least 2.
    tokens: at the embedding.
    ratio: mean fraction that is kept; kvpress's compression_ratio is 1 - ratio.
    window: recent tokens that every layer keeps, counted in the numbers.
    beta: the last layer has 1 / beta of the mean beside the window.

  Returns:
    `depth` numbers.
  """
  mean = tokens * ratio
  last = mean / beta
  first = 2 * mean - last
  if first >= tokens - window:
    first = tokens - window
    last = 2 * mean - first
  if not tokens >= first >= last >= window:
    return (round(mean),) * depth
  step = (first - last) / (depth - 1)
  return tuple(round(first - i * step) for i in range(depth))


def removals(counts: Sequence[int]) -> tuple[int, ...]:
  """Tokens to take away after each layer, so that the next has its number.

  Args:
    counts: tokens that each layer works on.

  Returns:
    As many numbers, the last 0.

  Raises:
    ValueError: if a count rises.
  """
  lost = [a - b for a, b in itertools.pairwise(counts)]
  if min(lost, default=0) < 0:
    raise UserError(
      f'tokens that left do not come back, but the counts rise: {list(counts)}'
    )
  return (*lost, 0)
