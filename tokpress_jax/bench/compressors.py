"""Pruners before a language model: what choosing costs beside what it saves.

Each method keeps K of N visual tokens of width 4096, one image, given the
signals that it reads; `seconds` are of the plan and the moves. `prefill` is the
time that a language model of 7B (32 layers, width 4096, MLPs of 11008, gated)
needs for the K tokens and 64 of text at the peak of this machine's matrix
products, measured in the same run, and `share` the method's part of that.
`gram` is the time over that of one product of all pairs of tokens. Times
alternate. What is drawn at random has no say in the time.
"""

from __future__ import annotations

import functools
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
) -> list[harness.Row]:
  """Times the methods at their published budgets.

  Args:
    methods: names of pruners that can keep K tokens of a row.
    slots: N, 576 or 2880 or both.
    width: of the tokens.
    dtype: of the tokens.
    repeats: timed calls of each.

  Returns:
    A row for each method and budget.

  Raises:
    UserError: if there are no budgets for a number of tokens.
  """
  slots = (slots,) if isinstance(slots, int) else tuple(slots)
  if unknown := sorted(set(slots) - set(KEPT)):
    raise UserError(f'slots are among {sorted(KEPT)}, got {unknown}')
  names = (methods,) if isinstance(methods, str) else tuple(methods)
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
  tokens = Tokens.create(features)
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
