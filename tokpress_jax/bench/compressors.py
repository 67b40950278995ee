"""Pruners before a language model: what choosing costs beside what it saves.

Each method keeps K of N visual tokens of width 4096, one image, given the
signals that it reads; `seconds` are of the plan and the moves. `prefill` is the
time that a language model of 7B (32 layers, width 4096, MLPs of 11008, gated)
needs for the K tokens and 64 of text at the peak of this machine's matrix
products, measured in the same run, and `share` the method's part of that.
`gram` is the time over that of one product of all pairs of tokens. Times
alternate. What is drawn at random has no say in the time.

With a trained ViT (`--model RUN`) it measures instead what is left of the
images of the run's own data, at the same shares of its patches; see
`report.measure_choosing`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax

from tokpress_jax import registry
from tokpress_jax.bench import harness, peaks
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
  methods: str | Sequence[str] = METHODS,
  slots: int | Sequence[int] = (576, 2880),
  width: int = WIDTH,
  dtype: str = 'float32',
  repeats: int = 3,
  model: str | None = None,
  train_images: int = 4096,
  test_images: int = 2048,
) -> list[harness.Row]:
  """Times the methods at their published budgets, or measures what is left.

  Args:
    methods: names of pruners that can keep K tokens of a row.
    slots: N, 576 or 2880 or both.
    width: of the tokens.
    dtype: of the tokens.
    repeats: timed calls of each.
    model: a work directory of a classifier; nothing is timed then. Methods that
      need a text or a selector's scores are left out.
    train_images: for the linear probe.
    test_images: that are measured.

  Returns:
    A row for each method and budget.

  Raises:
    UserError: if there are no budgets for a number of tokens.
  """
  if model is not None:
    given = (methods,) if isinstance(methods, str) else tuple(methods)
    return left_of(model, given, train_images, test_images)
  slots = (slots,) if isinstance(slots, int) else tuple(slots)
  if unknown := sorted(set(slots) - set(KEPT)):
    raise UserError(f'slots are among {sorted(KEPT)}, got {unknown}')
  names = (methods,) if isinstance(methods, str) else tuple(methods)
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


def left_of(
  model: str, methods: Sequence[str], train_images: int, test_images: int
) -> list[harness.Row]:
  """What methods leave of a run's images; see `run`."""
  from tokpress_jax import report, workdir
  from tokpress_jax.io import load as load_lib

  plain = [
    name
    for name in methods
    if not registry.resolve(name)().needs & {'text', 'importance'}
  ]
  images = report.image_set(
    workdir.read_config(model).data,
    max_train=train_images,
    max_test=test_images,
  )
  rows = report.measure_choosing(load_lib.load(model), images, plain)
  return [
    {
      'name': f'{row.method}/{row.tokens}',
      'coverage': row.coverage,
      'diversity': row.diversity,
      'error': row.error,
      'probe': row.probe,
    }
    for row in rows
  ]


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
