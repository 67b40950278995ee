"""Pruners before a language model: what choosing costs beside what it saves.

Each method keeps K of N visual tokens of width 4096, one image, given the
signals that it reads; `seconds` are of the plan and the moves. `prefill` is the
time that a language model of 7B (32 layers, width 4096, MLPs of 11008, gated)
needs for the K tokens and 64 of text at the peak of this machine's matrix
products, measured in the same run, and `share` the method's part of that.
`gram` is the time over that of one product of all pairs of tokens. Times
alternate. What is drawn at random has no say in the time.

With a trained ViT or CLIP (`--model RUN`) it measures instead what is left of
the images of the run's own data, at the same shares of its patches, or at
others (`--shares 2/9 1/9 1/18`); see `report.measure_choosing`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax

from tokpress_jax import registry
from tokpress_jax.bench import choosing, harness, peaks
from tokpress_jax.errors import UserError
from tokpress_jax.pruners import flops, random_inputs, similarities
from tokpress_jax.types import Signals, Tokens

# The two rows of budgets: LLaVA-1.5's and LLaVA-NeXT's.
KEPT = {576: (192, 128, 64), 2880: (640, 320, 160)}
LAYERS, WIDTH, HIDDEN, WORDS = 32, 4096, 11008, 64
# Those that can leave K of the tokens of one image.
METHODS = (
  'divprune',
  'vtc_cls',
  'hiprune',
  'visionzip',
  'prumerge',
  'recoverable',
  'scope',
  'dart',
  'vispruner',
  'idpruner',
  'todre',
  'catp',
  'token_corr',
  'random',
  'stride',
)


def run(
  *,
  methods: str | Sequence[str] | None = None,
  slots: int | Sequence[int] = (576, 2880),
  width: int = WIDTH,
  dtype: str = 'float32',
  repeats: int = 3,
  model: str | None = None,
  text_model: str | None = None,
  dataset: str | None = None,
  shares: float | str | Sequence[float | str] | None = None,
  layer: int | None = None,
  train_images: int | None = None,
  test_images: int | None = None,
) -> list[harness.Row]:
  """Times the methods at their published budgets, or measures what is left.

  Args:
    methods: names of pruners that can keep K tokens of a row; all if None.
    slots: N, 576 or 2880 or both.
    width: of the tokens.
    dtype: of the tokens.
    repeats: timed calls of each.
    model: a trained ViT or CLIP; nothing is timed then, and the options below
      are read, whose defaults and meanings `bench.choosing.left_of` has.
    text_model: the text tower that belongs to a ViT.
    dataset: other images than the run's.
    shares: of the patches that are kept.
    layer: whose output is read.
    train_images: for the linear probe.
    test_images: that are measured.

  Returns:
    A row for each method and budget.

  Raises:
    UserError: if there are no budgets for a number of tokens, or options do not
      go together.
  """
  given = (methods,) if isinstance(methods, str) else methods
  of_model: dict[str, Any] = {
    'text_model': text_model,
    'dataset': dataset,
    'shares': shares,
    'layer': layer,
    'train_images': train_images,
    'test_images': test_images,
  }
  of_model = {name: x for name, x in of_model.items() if x is not None}
  if model is not None:
    return choosing.left_of(model, given, everything=METHODS, **of_model)
  if of_model:
    raise UserError(f'{", ".join(of_model)} need a --model')
  slots = (slots,) if isinstance(slots, int) else tuple(slots)
  if unknown := sorted(set(slots) - set(KEPT)):
    raise UserError(f'slots are among {sorted(KEPT)}, got {unknown}')
  names = METHODS if given is None else tuple(given)
  if wrong := sorted(set(names) - set(METHODS)):
    raise UserError(
      f'no budgets of tokens for {", ".join(wrong)}; this benchmark knows '
      f'{", ".join(METHODS)}'
    )
  rows = []
  for number in slots:
    rows += compare(
      names,
      number,
      KEPT[number],
      width=width,
      dtype=dtype,
      repeats=repeats,
    )
  return rows


def compare(
  names: Sequence[str],
  slots: int,
  budgets: Sequence[int],
  *,
  width: int,
  dtype: str,
  repeats: int,
) -> list[harness.Row]:
  """Times methods at some budgets of one number of tokens; see `run`."""
  pairs = [(name, kept) for name in names for kept in budgets]
  made = {pair: registry.resolve(pair[0])(budget=pair[1]) for pair in pairs}
  features = jax.random.normal(jax.random.key(0), (1, slots, width), dtype)
  calls: dict[Any, harness.Call] = {
    pair: _call(pruner, features) for pair, pruner in made.items()
  }
  gram = jax.jit(similarities.cosine)
  calls['gram'] = functools.partial(gram, features)
  peak = peaks.Peaks(
    (max(budgets) + WORDS, WIDTH, HIDDEN), [], batch=1, dtype=dtype
  ).measure()['ours']['matmul']
  harness.first_calls({str(key): call for key, call in calls.items()})
  medians = harness.time_calls(*calls.values(), repeats=repeats, warmup=0)
  seconds = dict(zip(calls, medians, strict=True))
  rows = []
  for name, kept in pairs:
    tokens = kept + WORDS
    work = flops.model_flops(
      [(tokens, tokens)] * LAYERS, width=WIDTH, hidden=HIDDEN, gated=True
    )
    prefill = 2 * work / peak
    spent = seconds[name, kept]
    rows.append(
      {
        'name': f'{name}/{kept} of {slots}',
        'dtype': dtype,
        'seconds': spent,
        'prefill': prefill,
        'share': spent / prefill,
        'gram': spent / seconds['gram'],
      }
    )
  return rows


def _call(pruner: Any, features: jax.Array) -> functools.partial[Any]:
  """Plans and moves, given random signals."""
  slots = features.shape[1]
  height = max(n for n in range(1, math.isqrt(slots) + 1) if not slots % n)
  tokens = Tokens.create(features, grids=((1, height, slots // height),))
  shapes = random_inputs.signal_shapes(pruner.needs, slots, batch=1)
  draw = lambda like: jax.random.uniform(jax.random.key(1), like.shape)
  found = {need: draw(like).astype(like.dtype) for need, like in shapes.items()}
  if 'rng' in pruner.needs:
    found['rng'] = jax.random.split(jax.random.key(0), 1)
  signals = random_inputs.make_signals(found)

  @jax.jit
  def program(tokens: Tokens, signals: Signals) -> Any:
    return pruner(tokens, signals)[0]

  return functools.partial(program, tokens, signals)
